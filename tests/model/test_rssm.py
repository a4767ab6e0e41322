"""The RSSM over time (resets, loops, split layers), its KL losses, and the GRU by hand."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from mock_agents import random_like

from dreamer_jax.model import rssm as rssm_lib
from dreamer_jax.model.distributions import from_noise
from dreamer_jax.model.kl import balanced_kl, plain_kl
from dreamer_jax.model.latents import CategoricalLatent, GaussianLatent, flatten_stoch
from dreamer_jax.model.rssm import GRU, RSSM, ConcatDense
from dreamer_jax.types import RSSMState

B, T, A, X, D = 3, 5, 2, 6, 8
LATENTS = {"categorical": CategoricalLatent(3, 4), "gaussian": GaussianLatent(5)}


class Case:
    """An RSSM with random weights, sequences for it, and a nonzero start state."""

    def __init__(self, latent):
        self.rssm = RSSM(
            latent=latent, deter=D, hidden=7, action_size=A, embed_size=X, act=nn.elu,
            norm=True, gru_norm=True, dtype=jnp.float32,
        )  # fmt: skip
        self.embed, self.action = (
            random_like(jnp.zeros((B, T, size)), seed=size, scale=1) for size in (X, A)
        )
        init = functools.partial(self.rssm.init, method="init_all")
        args = jax.random.key(0), self.action[:, 0], self.embed[:, 0]
        self.params = random_like(jax.eval_shape(init, *args)["params"])
        self.noise = latent.noise(jax.random.key(1), (T, B))
        stoch = self.noise[0]
        if isinstance(latent, CategoricalLatent):
            stoch = jax.nn.one_hot((stoch * latent.classes).astype(int), latent.classes)
        self.start = RSSMState(deter=random_like(jnp.zeros((B, D)), seed=1), stoch=stoch)
        self.is_first = jnp.zeros((B, T), bool)
        self.observe = jax.jit(self._observe)

    def _observe(self, start, embed, action, is_first):
        args = (embed, action, is_first, self.noise, start)
        return rssm_lib.observe(self.rssm, self.params, *args, sample=from_noise)


@pytest.fixture(scope="module", params=sorted(LATENTS))
def case(request):
    return Case(LATENTS[request.param])


def assert_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def assert_close(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-5), a, b)


def test_nothing_before_a_first_step_is_seen_after_it(case):
    """From `is_first` on, the states are exactly the same, whatever came before."""
    is_first = case.is_first.at[0, 2].set(True).at[1, 0].set(True)
    one, *_ = case.observe(case.start, case.embed, case.action, is_first)
    past = jnp.arange(T)[None, :, None] < jnp.array([2, 0, 0])[:, None, None]
    embed = jnp.where(past, -3 * case.embed, case.embed)
    # The action at the first step led out of the last episode, and must not be seen either.
    past = jnp.arange(T)[None, :, None] <= jnp.array([2, 0, -1])[:, None, None]
    action = jnp.where(past, 5.0, case.action)
    start = jax.tree.map(lambda x: 2 - x, case.start)
    two, *_ = case.observe(start, embed, action, is_first)
    assert_equal(*(jax.tree.map(lambda x: x[0, 2:], s) for s in (one, two)))
    assert_equal(*(jax.tree.map(lambda x: x[1], s) for s in (one, two)))
    # Row 2 is never reset, so the other start shows in every step of it.
    assert (np.abs(one.deter[2] - two.deter[2]).max(-1) > 1e-6).all()
    assert (np.abs(one.deter[0, :2] - two.deter[0, :2]).max(-1) > 1e-6).all()


def test_a_first_step_starts_from_zeros(case):
    is_first = case.is_first.at[:, 0].set(True)
    reset, *_ = case.observe(case.start, case.embed, case.action, is_first)
    zero_action = case.action.at[:, 0].set(0.0)
    zero, *_ = case.observe(case.rssm.initial((B,)), case.embed, zero_action, case.is_first)
    assert_equal(reset, zero)


def test_reset_where_keeps_the_other_rows(case):
    state, action = rssm_lib.reset_where(
        jnp.array([True, False, True]), case.start, case.action[:, 0]
    )
    for given, kept in ((case.start.deter, state.deter), (case.start.stoch, state.stoch)):
        np.testing.assert_array_equal(kept[1], given[1])
        assert not kept[jnp.array([0, 2])].any()
    np.testing.assert_array_equal(action[1], case.action[1, 0])
    assert not action[0].any()


def test_observe_equals_a_loop_of_obs_step(case):
    is_first = case.is_first.at[0, 2].set(True)
    states, posterior, prior = case.observe(case.start, case.embed, case.action, is_first)

    @jax.jit
    def step(state, embed, action, is_first, noise):
        variables = {"params": case.params}
        projected = case.rssm.apply(variables, embed, method="project_embed")
        args = (state, action, projected, is_first, noise)
        after = case.rssm.apply(variables, *args, sample=from_noise, method="obs_step")
        args = (*rssm_lib.reset_where(is_first, state, action), noise)
        return after, rssm_lib.img_step(case.rssm, case.params, *args, sample=from_noise)[1]

    state = case.start
    for t in range(T):
        inputs = case.embed[:, t], case.action[:, t], is_first[:, t], case.noise[t]
        (state, stats), before = step(state, *inputs)
        now = jax.tree.map(lambda x, t=t: x[:, t], (states, posterior, prior))
        assert_close(now, (state, stats, before))


def test_open_loop_equals_a_loop_of_img_step(case):
    is_first = case.is_first.at[1, 3].set(True)
    run = jax.jit(
        lambda start: rssm_lib.open_loop(
            case.rssm, case.params, case.action, is_first, case.noise, start, sample=from_noise
        )
    )
    states, prior = run(case.start)

    @jax.jit
    def step(state, action, first, noise):
        args = (*rssm_lib.reset_where(first, state, action), noise)
        return rssm_lib.img_step(case.rssm, case.params, *args, sample=from_noise)

    state = case.start
    for t in range(T):
        state, stats = step(state, case.action[:, t], is_first[:, t], case.noise[t])
        assert_close(jax.tree.map(lambda x, t=t: x[:, t], (states, prior)), (state, stats))


def test_the_split_posterior_is_one_layer_on_the_concatenation(case):
    deter, embed = case.start.deter, case.embed[:, 0]
    variables = {"params": case.params}
    projected = case.rssm.apply(variables, embed, method="project_embed")
    ours = case.rssm.apply(variables, deter, projected, method="posterior")
    p = case.params
    hidden = np.concatenate([deter, embed], -1) @ np.asarray(p["posterior_in"]["kernel"])
    hidden = hidden + p["posterior_in"]["bias"][None]
    hidden = (hidden - hidden.mean(-1, keepdims=True)) / np.sqrt(
        hidden.var(-1, keepdims=True) + 1e-3
    )
    norm = p["posterior_norm"]["norm"]
    hidden = nn.elu(hidden * norm["scale"][None] + norm["bias"][None])
    out = hidden @ p["posterior_out"]["kernel"] + p["posterior_out"]["bias"][None]
    assert_close(ours, case.rssm.latent.stats(out))


def test_concat_dense_is_the_sum_of_its_parts():
    layer = ConcatDense((2, 3), 4, jnp.float32)
    a, b = jnp.arange(2.0)[None], jnp.arange(3.0)[None]
    kernel = random_like(jnp.zeros((5, 4)))
    variables = {"params": {"kernel": kernel, "bias": jnp.arange(4.0)}}
    whole = layer.apply(variables, a, b)
    expected = np.array([0.0, 1.0, 0.0, 1.0, 2.0]) @ kernel + np.arange(4)
    np.testing.assert_allclose(whole[0], expected, rtol=1e-5)
    parts = [layer.apply(variables, i, x, method="part") for i, x in enumerate((a, b))]
    np.testing.assert_allclose(whole[0], sum(parts)[0] + jnp.arange(4.0), rtol=1e-5)


def test_feature_is_the_latent_followed_by_the_deterministic_state(case):
    feat = rssm_lib.feature(case.rssm.latent, case.start)
    np.testing.assert_array_equal(feat[:, -D:], case.start.deter)
    np.testing.assert_array_equal(feat[:, :-D], case.start.stoch.reshape(B, -1))
    np.testing.assert_array_equal(flatten_stoch(case.rssm.latent, case.start.stoch), feat[:, :-D])


def test_gru_of_one_unit_by_hand():
    # Input 2, state 0.5; gates r = 0 * 2 + 0, c = 2 * 2 - 6 * 0.5, u = 0 + 1, so (0, 1, 1):
    # c = tanh(sigmoid(0) * 1) = tanh(0.5), u = sigmoid(1 - 1) = 0.5, h' = 0.5 tanh(0.5) + 0.25.
    kernel = jnp.array([[0.0, 2.0, 0.0], [0.0, -6.0, 0.0]])
    dense = {"kernel": kernel, "bias": jnp.array([0.0, 0.0, 1.0])}
    x, h = jnp.array([[2.0]]), jnp.array([[0.5]])
    plain = GRU(1, False, jnp.float32).apply({"params": {"dense": dense}}, x, h)
    np.testing.assert_allclose(plain, [[0.5 * math.tanh(0.5) + 0.25]], rtol=1e-6)


def test_gru_normalises_all_gates_together():
    # Gates (0, 1, 2): mean 1, variance 2/3, so the norm gives (-g, 0, g), g = 1 / sqrt(2/3 + 1e-3)
    # = 1.2238269. c = tanh(0) = 0, u = sigmoid(g - 1) = 0.5557271, h' = (1 - u) * 0.5.
    dense = {"kernel": jnp.zeros((2, 3)), "bias": jnp.array([0.0, 1.0, 2.0])}
    norm = {"norm": {"scale": jnp.ones(3), "bias": jnp.zeros(3)}}
    x, h = jnp.array([[2.0]]), jnp.array([[0.5]])
    normed = GRU(1, True, jnp.float32).apply({"params": {"dense": dense, "norm": norm}}, x, h)
    np.testing.assert_allclose(normed, [[0.2221364]], rtol=1e-5)


def kl_of(post, prior):
    """Return the KL, written out and summed over latent variables."""
    post, prior = jax.nn.log_softmax(post), jax.nn.log_softmax(prior)
    return (jnp.exp(post) * (post - prior)).sum((-2, -1))


@pytest.fixture(scope="module")
def logits():
    return [random_like(jnp.zeros((4, 2, 3)), seed, scale=1) for seed in (5, 6)]


def kl_and_grads(fn, logits, **kwargs):
    latent = CategoricalLatent(2, 3)

    def loss(post, prior):
        return fn(latent, {"logits": post}, {"logits": prior}, **kwargs)

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(*logits)


def test_balanced_kl_is_the_kl_with_shares_of_its_gradient(logits):
    (loss, kl), grads = kl_and_grads(balanced_kl, logits, balance=0.8, free_nats=0.0)
    np.testing.assert_allclose(kl, kl_of(*logits), rtol=1e-5)
    np.testing.assert_allclose(loss, kl.mean(), rtol=1e-6)
    whole = jax.jit(jax.grad(lambda *args: kl_of(*args).mean(), (0, 1)))(*logits)
    np.testing.assert_allclose(grads[0], 0.2 * whole[0], atol=1e-7)
    np.testing.assert_allclose(grads[1], 0.8 * whole[1], atol=1e-7)


def test_plain_kl_has_its_whole_gradient_whatever_the_balance(logits):
    whole = jax.jit(jax.grad(lambda *args: kl_of(*args).mean(), (0, 1)))(*logits)
    for balance in (0.5, 0.8):
        (loss, kl), grads = kl_and_grads(plain_kl, logits, balance=balance, free_nats=0.0)
        np.testing.assert_allclose(loss, kl_of(*logits).mean(), rtol=1e-5)
        np.testing.assert_allclose(kl, kl_of(*logits), rtol=1e-5)
        for ours, theirs in zip(grads, whole, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-7)


@pytest.mark.parametrize("fn", [balanced_kl, plain_kl])
def test_free_nats_kill_the_gradient(fn, logits):
    mean = float(kl_of(*logits).mean())
    (loss, kl), grads = kl_and_grads(fn, logits, balance=0.8, free_nats=mean + 0.1)
    np.testing.assert_allclose(loss, mean + 0.1, rtol=1e-6)
    np.testing.assert_allclose(kl.mean(), mean, rtol=1e-5)
    assert not grads[0].any() and not grads[1].any()
    (loss, _), grads = kl_and_grads(fn, logits, balance=0.8, free_nats=mean - 0.1)
    np.testing.assert_allclose(loss, mean, rtol=1e-5)
    assert grads[0].any() and grads[1].any()


@pytest.mark.parametrize("fn", [balanced_kl, plain_kl])
def test_free_nats_of_every_step(fn, logits):
    each = np.asarray(kl_of(*logits))
    free = float(np.median(each))
    (loss, _), grads = kl_and_grads(fn, logits, balance=0.8, free_nats=free, free_avg=False)
    np.testing.assert_allclose(loss, np.maximum(each, free).mean(), rtol=1e-5)
    alive = np.abs(grads[0]).max((1, 2)) > 0
    np.testing.assert_array_equal(alive, each > free)


def test_gaussian_kl_balance_has_the_value_of_the_kl():
    latent = GaussianLatent(3)
    outs = random_like(jnp.zeros((2, 4, 6)), scale=1)
    post, prior = latent.stats(outs[0]), latent.stats(outs[1])
    kl_loss = functools.partial(balanced_kl, latent, balance=0.8, free_nats=0.0)
    loss, kl = jax.jit(kl_loss)(post, prior)
    ratio = (post["std"] / prior["std"]) ** 2
    shift = ((post["mean"] - prior["mean"]) / prior["std"]) ** 2
    np.testing.assert_allclose(kl, 0.5 * (ratio + shift - 1 - jnp.log(ratio)).sum(-1), rtol=1e-4)
    np.testing.assert_allclose(loss, kl.mean(), rtol=1e-6)
