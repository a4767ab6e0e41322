"""Parity of networks, RSSM, losses and gradients with the original TensorFlow implementation.

Every golden number of the world model is compared; test_parity_behavior.py has the behaviour's.
"""

import jax
import jax.numpy as jnp
import pytest
from goldens import GRADIENT, check_grads, check_metrics, close, needs_goldens

from dreamer_jax.model import rssm as rssm_lib
from dreamer_jax.model.distributions import UnitNormal, bernoulli, take_mode
from dreamer_jax.model.kl import KL_LOSSES
from dreamer_jax.model.objectives import reconstruction
from dreamer_jax.model.world_model import log_probs, prepare_obs, world_model_loss

pytestmark = needs_goldens


def test_groups(golden):
    assert {key.split("/")[0] for key in golden.arrays} == {"in", "var", "out", "grad", "train"}


def test_parameter_counts(golden):
    counts = {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in golden.imported.params.items()}
    assert counts == golden.info["counts"]


def test_embed_and_gru(golden):
    wm = golden.agent.wm
    embed = jax.jit(wm.embed)(golden.model, prepare_obs(golden.batch.obs))
    close(embed, golden["out/embed"])
    variables = {"params": golden.model["rssm"]}
    x, h = golden["in/gru/x"], golden["in/gru/h"]
    close(wm.rssm.apply(variables, x, h, method=lambda m, x, h: m.gru(x, h)), golden["out/gru"])


def test_preprocess(golden):
    wm = golden.agent.wm
    close(wm.reward_transform(golden.batch.reward), golden["out/preprocess/reward"])
    label = golden.config.discount * (1 - golden.batch.is_terminal.astype(jnp.float32))
    close(label, golden["out/preprocess/discount"])


def test_rssm_steps(golden):
    rssm, params = golden.agent.wm.rssm, golden.model["rssm"]
    prev, action = golden.stored_state("in/step/prev"), golden["in/step/action"]
    noise = jnp.zeros((5, 4))
    state, prior = rssm_lib.img_step(rssm, params, prev, action, noise, sample=take_mode)
    golden.check_state("out/img_step", state, prior)
    projected = rssm.apply({"params": params}, golden["in/step/embed"], method="project_embed")
    is_first = jnp.asarray(golden["in/step/is_first"])
    args = prev, action, projected, is_first, noise
    state, posterior = rssm.apply({"params": params}, *args, sample=take_mode, method="obs_step")
    for name in ("obs_step", "obs_step_mode"):
        golden.check_state(f"out/{name}/post", state, posterior)
    reset, action = rssm_lib.reset_where(is_first, prev, action)
    state, prior = rssm_lib.img_step(rssm, params, reset, action, noise, sample=take_mode)
    for name in ("obs_step", "obs_step_mode"):
        golden.check_state(f"out/{name}/prior", state, prior)


@pytest.mark.parametrize(("name", "kind"), [("observe", "zero"), ("observe_carry", "carry")])
def test_observe(golden, name, kind):
    wm, batch = golden.agent.wm, golden.batch
    states, posterior, prior = rssm_lib.observe(
        wm.rssm, golden.model["rssm"], jnp.asarray(golden["out/embed"]), batch.action,
        batch.is_first, golden.noise, golden.start(kind), sample=take_mode,
    )  # fmt: skip
    golden.check_state(f"out/{name}/post", states, posterior)
    close(prior["logits"], golden[f"out/{name}/prior/logit"])
    close(states.deter, golden[f"out/{name}/prior/deter"])
    close(wm.rssm.latent.dist(prior).sample_mode(), golden[f"out/{name}/prior/stoch"])
    if kind == "zero":
        close(wm.feature(states), golden["out/feat"])


def test_open_loop(golden):
    last = jax.tree.map(lambda x: x[:, -1], golden.stored_state("out/observe/post"))
    states, prior = rssm_lib.open_loop(
        golden.agent.wm.rssm, golden.model["rssm"], golden.batch.action,
        jnp.zeros_like(golden.batch.is_first), golden.noise, last, sample=take_mode,
    )  # fmt: skip
    golden.check_state("out/rssm_imagine", states, prior)


def test_heads(golden):
    wm, ac, batch = golden.agent.wm, golden.agent.behaviors[0].ac, golden.batch
    feat = jnp.asarray(golden["out/feat"])
    means = jax.jit(wm.decode)(golden.model, feat)
    close(means["image"], golden["out/decoder/image"])
    obs = prepare_obs(batch.obs)
    close(reconstruction(means, obs)["image"], golden["out/decoder_log_prob/image"])
    reward = wm.predict_reward(golden.model, feat)
    close(reward, golden["out/reward/mode"])
    target = wm.reward_transform(batch.reward)
    close(UnitNormal(reward, 0).log_prob(target), golden["out/reward/log_prob"])
    logits = wm.discount_logits(golden.model, feat)
    close(logits, golden["out/discount/logits"])
    close(wm.predict_discount(golden.model, feat, 0.999), golden["out/discount/mean"])
    label = 0.999 * (1 - batch.is_terminal.astype(jnp.float32))
    close(bernoulli(logits).log_prob(label), golden["out/discount/log_prob"])
    policy = ac.act(golden.imported.params["actor"], feat)
    close(policy.sample_mode(), golden["out/actor/mode"])
    close(policy.entropy(), golden["out/actor/entropy"])
    theirs = golden["out/actor/logits"]
    close(policy.logits, jax.nn.log_softmax(theirs))
    close(policy.log_prob(batch.action), golden["out/actor/log_prob_of_batch_action"])
    close(ac.value(golden.imported.params["critic"], feat), golden["out/critic/mode"])
    close(ac.value(golden.imported.slow_critic, feat), golden["out/target_critic/mode"])


@pytest.mark.parametrize(
    "setting",
    ["bal8_free0_avg", "bal5_free3", "bal8_free1_avg", "bal8_free1_noavg", "fwd_bal8_free0_avg"],
)
def test_kl(golden, setting):
    theirs = golden.info["kl_settings"][setting]
    latent = golden.agent.wm.rssm.latent

    def loss(post_logits, prior_logits):
        post, prior, balance = {"logits": post_logits}, {"logits": prior_logits}, theirs["balance"]
        if theirs["forward"]:  # KL(prior || post), which is ours with the roles exchanged
            post, prior, balance = prior, post, 1 - balance
        # The original takes a balance of 0.5 for no balancing at all.
        name = "plain" if theirs["balance"] == 0.5 else "balanced"
        return KL_LOSSES[name](
            latent, post, prior, balance=balance, free_nats=theirs["free"],
            free_avg=theirs["free_avg"],
        )  # fmt: skip

    args = golden["out/observe/post/logit"], golden["out/observe/prior/logit"]
    (value, kl), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(*map(jnp.asarray, args))
    close(value, golden[f"out/kl/{setting}/loss"])
    close(kl, golden[f"out/kl/{setting}/value"])
    close(grads[0], golden[f"out/kl/{setting}/grad_post_logit"], GRADIENT)
    close(grads[1], golden[f"out/kl/{setting}/grad_prior_logit"], GRADIENT)


@pytest.fixture(scope="module")
def loss_and_grads(golden):
    """Return the compiled loss, its gradients and its parts, of parameters and any start."""
    wm, batch, hypers = golden.agent.wm, golden.batch, golden.hypers
    obs = prepare_obs(batch.obs)

    @jax.jit
    def run(params, start):
        def loss(params):
            args = params, batch, golden.noise, start, hypers
            return world_model_loss(wm, *args, sample=take_mode)

        states, posterior, prior = rssm_lib.observe(
            wm.rssm, params["rssm"], wm.embed(params, obs), batch.action, batch.is_first,
            golden.noise, start, sample=take_mode,
        )  # fmt: skip
        feat = wm.feature(states)
        args = obs, batch.reward, batch.is_terminal, hypers.discount
        settings = {"balance": hypers.kl_balance, "free_nats": hypers.free_nats}
        _, kl = wm.kl_loss(wm.rssm.latent, posterior, prior, free_avg=wm.free_avg, **settings)
        parts = posterior, log_probs(wm, params, feat, *args), kl
        return jax.value_and_grad(loss, has_aux=True)(params), parts

    return run


@pytest.mark.parametrize(("name", "kind"), [("loss", "zero"), ("loss_carry", "carry")])
def test_world_model_loss(golden, loss_and_grads, name, kind):
    ((value, (states, metrics)), grads), parts = loss_and_grads(golden.model, golden.start(kind))
    posterior, predicted, kl = parts
    close(value, golden[f"out/{name}/model_loss"])
    check_metrics(metrics | {"model_loss": value}, golden.prefixed(f"out/{name}/metrics/"))
    for key, log_prob in predicted.items():
        close(log_prob, golden[f"out/{name}/likes/{key}"])
    close(kl, golden[f"out/{name}/kl_value"])
    last = jax.tree.map(lambda x: x[:, -1], (states, posterior))
    golden.check_state(f"out/{name}/last_state", *last)
    check_grads({"model": grads}, golden.prefixed(f"grad/{name}/"))
    norm = jnp.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
    close(norm, golden[f"out/{name}/grad_norm"], GRADIENT)
