"""Shapes and dtypes of the functions that an agent is made of, eager and compiled."""

import functools
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from mock_agents import assert_shapes, random_like

from dreamer_jax.behavior import returns
from dreamer_jax.behavior.actor_critic import POLICIES
from dreamer_jax.model import distributions, latents, networks, objectives, world_model
from dreamer_jax.model import rssm as rssm_lib
from dreamer_jax.model.kl import KL_LOSSES
from dreamer_jax.model.ops.activations import ACTIVATIONS, LINEAR
from dreamer_jax.model.ops.convolutions import FORMULATIONS, LAX, Conv
from dreamer_jax.optimizer import apply_gradients, make_optimizer
from dreamer_jax.types import RSSMState

CATEGORICAL, GAUSSIAN = latents.CategoricalLatent(4, 5), latents.GaussianLatent(4)
F32, BF16 = jnp.float32, jnp.bfloat16
B, T = 2, 4


@pytest.fixture(params=["eager", "jit"])
def variant(request):
    """Return a function that keeps functions eager, or compiles them."""
    return jax.jit if request.param == "jit" else lambda fn: fn


def inputs(*shapes):
    """Draw numbers in (0, 1), valid as noise, probabilities, scales and discounts."""
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.uniform(0.1, 0.9, shape), F32) for shape in shapes]


def one_hot(logits, noise, value, other):
    dist, other = distributions.OneHot(logits), distributions.OneHot(other)
    samples = distributions.from_noise(dist, noise), distributions.take_mode(dist, noise)
    return samples, (dist.log_prob(value), dist.entropy(), dist.kl_divergence(other))


def gaussian(mean, std, noise, other):
    dist = distributions.Gaussian(mean, std)
    samples = distributions.from_noise(dist, noise), distributions.take_mode(dist, noise)
    kl = dist.kl_divergence(distributions.Gaussian(other, std))
    return samples, (dist.log_prob(noise), dist.entropy(), kl)


def truncated_normal(loc, scale, noise):
    dist = distributions.TruncatedNormal(loc, scale)
    samples = distributions.from_noise(dist, noise), distributions.take_mode(dist, noise)
    return (*samples, dist.mean()), (dist.log_prob(noise), dist.entropy())


def latent(kind):
    def run(out, stoch):
        stats = kind.stats(out)
        sample = kind.dist(stats).sample_from(kind.noise(jax.random.key(0), out.shape[:-1]))
        return stats, sample, kind.dist(stats).sample_mode(), latents.flatten_stoch(kind, stoch)

    return run


def policy(kind):
    def run(out):
        dist = POLICIES[kind].make_dist(out)
        noise = POLICIES[kind].noise(jax.random.key(0), out.shape[:-1], 3)
        sample = dist.sample_from(noise)
        return sample, dist.log_prob(sample), dist.entropy()

    return run


def optimizer_step(weights, grads):
    optimizer = make_optimizer(clip=1.0, eps=1e-5, decay=1e-6)
    return apply_gradients(optimizer, grads, optimizer.init(weights), weights, 0.1)[::2]


# Name -> function, shapes of its arguments, shapes of its result.
FUNCTIONS = {
    "OneHot": (one_hot, [(2, 3), (2,), (2, 3), (2, 3)], (((2, 3),) * 2, ((2,),) * 3)),
    "Gaussian": (gaussian, [(2, 3)] * 4, (((2, 3),) * 2, ((2,),) * 3)),
    "TruncatedNormal": (truncated_normal, [(2, 3)] * 3, (((2, 3),) * 3, ((2,),) * 2)),
    "UnitNormal": (
        lambda mean, x: distributions.UnitNormal(mean, 2).log_prob(x), [(2, 3, 4)] * 2, (2,)
    ),
    "bernoulli": (lambda x, y: distributions.bernoulli(x).log_prob(y), [(2, 3)] * 2, (2, 3)),
    "CategoricalLatent": (
        latent(CATEGORICAL), [(2, 20), (2, 4, 5)],
        ({"logits": (2, 4, 5)}, (2, 4, 5), (2, 4, 5), (2, 20)),
    ),
    "GaussianLatent": (
        latent(GAUSSIAN), [(2, 8), (2, 4)],
        ({"mean": (2, 4), "std": (2, 4)}, (2, 4), (2, 4), (2, 4)),
    ),
    "onehot policy": (policy("onehot"), [(2, 3)], ((2, 3), (2,), (2,))),
    "trunc_normal policy": (policy("trunc_normal"), [(2, 6)], ((2, 3), (2,), (2,))),
    "tanh_normal policy": (policy("tanh_normal"), [(2, 6)], ((2, 3), (2,), (2,))),
    "lambda_return": (
        functools.partial(returns.lambda_return, lambda_=0.9), [(5, 2)] * 3 + [(2,)], (5, 2)
    ),
    "imagination_weight": (returns.imagination_weight, [(5, 2)], (5, 2)),
    "linear_schedule": (returns.linear_schedule, [()] * 4, ()),
    "reconstruction": (
        lambda x, y: objectives.reconstruction({"i": x, "v": y}, {"i": x, "v": y}),
        [(2, 3, 8, 8, 1), (2, 3, 5)], {"i": (2, 3), "v": (2, 3)},
    ),
    "prepare_obs": (
        lambda x: world_model.prepare_obs({"i": x.astype(jnp.uint8), "v": x}), [(2, 3)],
        {"i": (2, 3), "v": (2, 3)},
    ),
    "prepare_action": (
        lambda x: world_model.prepare_action(x.astype(jnp.int32), 5), [(2, 3)], (2, 3, 5)
    ),
    "optimizer": (optimizer_step, [(2, 3)] * 2, ((2, 3), ())),
}  # fmt: skip
for name, make in FORMULATIONS.items():
    conv, transpose = (functools.partial(lambda fn, x, k: fn(x, k, 2), fn) for fn in make(2**20))
    FUNCTIONS[f"conv {name}"] = (conv, [(2, 6, 6, 3), (4, 4, 3, 5)], (2, 2, 2, 5))
    FUNCTIONS[f"conv_transpose {name}"] = (transpose, [(2, 2, 2, 3), (5, 5, 3, 4)], (2, 7, 7, 4))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name, variant):
    fn, shapes, expected = FUNCTIONS[name]
    result = variant(fn)(*inputs(*shapes))
    assert_shapes(result, expected)
    chex.assert_tree_all_finite(result)


CODER = {
    "image_size": 64, "depth": 2, "mlp_layers": 1, "mlp_units": 6, "grid_depth": 2,
    "grid_layers": 1, "grid_units": 6, "formulation": LAX,
}  # fmt: skip
CHANNELS = {"a": 1, "b": 2}
SIZES = {"v": 3, "w": 4}
IMAGES = {key: (2, 3, 64, 64, channels) for key, channels in CHANNELS.items()}
VECTORS = {key: (2, 3, size) for key, size in SIZES.items()}
BOARDS = {"c": (5, 4, 1), "d": (5, 4, 2)}
GRIDS = {key: (2, 3, *shape) for key, shape in BOARDS.items()}


def coder(cls, images, vectors, shared, grids=types.MappingProxyType({})):
    """Make an encoder or decoder of the given entries."""
    entries = [images, vectors, grids]
    if cls is networks.Encoder:
        entries = map(tuple, entries)
    return cls(*entries, **CODER, cnn_act=ACTIVATIONS["relu"], **shared)


# Name -> module of the shared arguments (act, norm, dtype), shapes of its arguments, shapes of its
# result, and True if the result is float32 whatever the compute dtype.
MODULES = {
    "MLP": (lambda shared: networks.MLP(2, 6, 5, **shared), [(2, 3)], (2, 5), True),
    "LayerNorm32": (lambda shared: networks.LayerNorm32(shared["dtype"]), [(2, 3)], (2, 3), False),
    "Dense": (lambda shared: networks.Dense(5, shared["dtype"]), [(2, 3)], (2, 5), False),
    "Conv": (
        lambda shared: Conv(
            5, 4, 2, FORMULATIONS["matmul"](2**20).conv, LINEAR, shared["dtype"]
        ),
        [(2, 6, 6, 3)], (2, 2, 2, 5), False,
    ),
    "ConcatDense": (
        lambda shared: rssm_lib.ConcatDense((3, 2), 5, shared["dtype"]),
        [(2, 3), (2, 2)], (2, 5), False,
    ),
    "GRU": (
        lambda shared: rssm_lib.GRU(5, True, shared["dtype"]), [(2, 3), (2, 5)], (2, 5), True
    ),
    "Encoder image": (
        functools.partial(coder, networks.Encoder, CHANNELS, {}), [IMAGES], (2, 3, 64), False
    ),
    "Encoder vector": (
        functools.partial(coder, networks.Encoder, {}, SIZES), [VECTORS], (2, 3, 6), False
    ),
    "Encoder mixed": (
        functools.partial(coder, networks.Encoder, CHANNELS, SIZES), [IMAGES | VECTORS],
        (2, 3, 70), False,
    ),
    "Encoder grid": (
        functools.partial(coder, networks.Encoder, {}, {}, grids=BOARDS), [GRIDS], (2, 3, 6), False
    ),
    "Decoder grid": (
        functools.partial(coder, networks.Decoder, {}, {}, grids=BOARDS), [(2, 3, 7)], GRIDS, True
    ),
    "Decoder image": (
        functools.partial(coder, networks.Decoder, CHANNELS, {}), [(2, 3, 7)], IMAGES, True
    ),
    "Decoder vector": (
        functools.partial(coder, networks.Decoder, {}, SIZES), [(2, 3, 7)], VECTORS, True
    ),
    "Decoder mixed": (
        functools.partial(coder, networks.Decoder, CHANNELS, SIZES), [(2, 3, 7)],
        IMAGES | VECTORS, True,
    ),
}  # fmt: skip


def module_inputs(shapes):
    return [
        dict(zip(s, inputs(*s.values()), strict=True)) if isinstance(s, dict) else inputs(s)[0]
        for s in shapes
    ]


@pytest.mark.parametrize("name", MODULES)
def test_modules(name, variant):
    make, shapes, expected, always_float32 = MODULES[name]
    args = module_inputs(shapes)
    dtype = BF16 if variant is jax.jit else F32
    module = make({"act": nn.elu, "norm": variant is jax.jit, "dtype": dtype})
    params = jax.eval_shape(module.init, jax.random.key(0), *args)
    chex.assert_type(jax.tree.leaves(params), F32)
    result = variant(module.apply)(random_like(params), *args)
    assert_shapes(result, expected, F32 if always_float32 else dtype)


def test_convolutions_and_dense_layers_have_activations_of_their_own():
    encoder = coder(networks.Encoder, CHANNELS, SIZES, {"act": nn.elu, "norm": False, "dtype": F32})
    args = module_inputs([IMAGES | VECTORS])
    params = random_like(jax.eval_shape(encoder.init, jax.random.key(0), *args)["params"])
    embed = jax.jit(encoder.apply)({"params": params}, *args)
    assert embed[..., :64].min() == 0  # ReLU
    assert -1 < embed[..., 64:].min() < 0  # ELU


def test_mixed_decoders_cut_their_output_in_the_order_of_their_keys():
    decoder = coder(networks.Decoder, CHANNELS, SIZES, {"act": nn.elu, "norm": False, "dtype": F32})
    feat = jnp.zeros((1, 7))
    params = random_like(jax.eval_shape(decoder.init, jax.random.key(0), feat)["params"])
    params["conv_3"] = {
        "kernel": jnp.zeros_like(params["conv_3"]["kernel"]), "bias": jnp.arange(3.0)
    }  # fmt: skip
    params["out"] = {"kernel": jnp.zeros_like(params["out"]["kernel"]), "bias": jnp.arange(7.0)}
    means = jax.jit(decoder.apply)({"params": params}, feat)
    np.testing.assert_array_equal(means["a"][0, 5, 6], [0])
    np.testing.assert_array_equal(means["b"][0, 5, 6], [1, 2])
    np.testing.assert_array_equal(means["v"][0], [0, 1, 2])
    np.testing.assert_array_equal(means["w"][0], [3, 4, 5, 6])


def rssm_functions(latent, rssm, params, embed, action, is_first, noise):
    """Return the results of every function of the RSSM by name."""
    apply = functools.partial(rssm.apply, {"params": params})
    use = {"sample": distributions.from_noise}
    start = rssm.initial((B,))
    projected = apply(embed, method="project_embed")
    states, posterior, prior = rssm_lib.observe(
        rssm, params, embed, action, is_first, noise, start, **use
    )
    kl = {"balance": 0.8, "free_nats": 0.1}
    return {
        "initial": start,
        "step_deter": apply(start, action[:, 0], method="step_deter"),
        "prior": apply(start.deter, method="prior"),
        "projected": projected,
        "posterior": apply(start.deter, projected[:, 0], method="posterior"),
        "feature": rssm_lib.feature(latent, states),
        "reset_where": rssm_lib.reset_where(is_first[:, 0], start, action[:, 0]),
        "img_step": rssm_lib.img_step(rssm, params, start, action[:, 0], noise[0], **use),
        "obs_step": apply(
            start,
            action[:, 0],
            projected[:, 0],
            is_first[:, 0],
            noise[0],
            method="obs_step",
            **use,
        ),
        "observe": (states, posterior, prior),
        "open_loop": rssm_lib.open_loop(rssm, params, action, is_first, noise, start, **use),
        "kl": [loss(latent, posterior, prior, **kl) for loss in KL_LOSSES.values()],
    }


@pytest.mark.parametrize("kind", [CATEGORICAL, GAUSSIAN])
def test_rssm_functions(kind, variant):
    rssm = rssm_lib.RSSM(
        latent=kind, deter=8, hidden=6, action_size=3, embed_size=7, act=nn.elu,
        norm=variant is jax.jit, gru_norm=True, dtype=F32,
    )  # fmt: skip
    embed, action = inputs((B, T, 7), (B, T, 3))
    init = functools.partial(rssm.init, method="init_all")
    params = jax.eval_shape(init, jax.random.key(0), action[:, 0], embed[:, 0])["params"]
    run = functools.partial(rssm_functions, kind, rssm)
    noise = kind.noise(jax.random.key(0), (T, B))
    is_first = jnp.zeros((B, T), bool)
    result = variant(run)(random_like(params), embed, action, is_first, noise)

    def state(*lead):
        return RSSMState(deter=(*lead, 8), stoch=(*lead, *kind.shape))

    def stats(*lead):
        if kind is CATEGORICAL:
            return {"logits": (*lead, 4, 5)}
        return {"mean": (*lead, 4), "std": (*lead, 4)}

    assert_shapes(result, {
        "initial": state(B),
        "step_deter": (B, 8),
        "prior": stats(B),
        "projected": (B, T, 6),
        "posterior": stats(B),
        "feature": (B, T, 8 + np.prod(kind.shape)),
        "reset_where": (state(B), (B, 3)),
        "img_step": (state(B), stats(B)),
        "obs_step": (state(B), stats(B)),
        "observe": (state(B, T), stats(B, T), stats(B, T)),
        "open_loop": (state(B, T), stats(B, T)),
        "kl": [((), (B, T))] * 2,
    })  # fmt: skip
