"""Parity of distributions, returns, schedules and the optimizer with the original."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import GRADIENT, WEIGHTS, close, load, needs_goldens

from dreamer_jax.behavior.actor_critic import POLICIES, tanh_normal
from dreamer_jax.behavior.returns import lambda_return, linear_schedule
from dreamer_jax.model.distributions import (
    Gaussian,
    OneHot,
    TruncatedNormal,
    UnitNormal,
    bernoulli,
)
from dreamer_jax.model.latents import GaussianLatent
from dreamer_jax.optimizer import apply_gradients, make_optimizer

pytestmark = needs_goldens

# What no preset uses: the running magnitude of rewards is switched off.
NOT_OURS = {"streamnorm"}


@pytest.fixture(scope="module")
def units():
    return load("goldens_units")


def test_groups(units):
    assert {key.split("/")[0] for key in units[0]} - NOT_OURS == {
        "lambda_return", "onehot", "trunc_normal", "tanh_normal", "distlayer", "mvn", "std_act",
        "optimizer",
    }  # fmt: skip


@pytest.mark.parametrize("lambda_", ["0.0", "0.95", "1.0"])
def test_lambda_return(units, lambda_):
    arrays, _ = units
    reward, value, pcont, bootstrap = (
        jnp.asarray(arrays["lambda_return/" + k]) for k in ("reward", "value", "pcont", "bootstrap")
    )
    ours = lambda_return(reward, value, pcont, bootstrap, float(lambda_))
    close(ours, arrays[f"lambda_return/out_{lambda_}"])
    if lambda_ == "0.95":
        close(ours.T, arrays["lambda_return/out_0.95_axis1"])
        constant = lambda_return(reward, value, jnp.full_like(reward, 0.99), bootstrap, 0.95)
        close(constant, arrays["lambda_return/out_0.95_scalar_pcont_0.99"])


def test_onehot(units):
    a = {k[len("onehot/") :]: jnp.asarray(v) for k, v in units[0].items() if "onehot/" in k[:7]}
    logits, x = a["logits"], a["x"]
    dist = OneHot(logits)
    close(dist.log_prob(x), a["log_prob"])
    close(dist.entropy(), a["entropy"])
    close(dist.mode(), a["mode"])
    close(dist.probs, a["mean"])
    close(dist.sample_mode(), a["sample_mode_patched"])
    close(dist.kl_divergence(OneHot(a["logits2"])), a["kl"])

    def check(fn, name, arg=logits):
        close(jax.grad(lambda v: fn(v).sum())(arg), a[name], GRADIENT)

    check(lambda v: OneHot(v).sample_mode() * a["w"], "grad_sample_dot_w_wrt_logits")
    check(lambda v: OneHot(v).log_prob(x), "grad_log_prob_wrt_logits")
    check(lambda v: OneHot(v).entropy(), "grad_entropy_wrt_logits")
    check(lambda v: OneHot(v).kl_divergence(OneHot(a["logits2"])), "grad_kl_wrt_logits")
    check(lambda v: dist.kl_divergence(OneHot(v)), "grad_kl_wrt_logits2", a["logits2"])
    assert units[1]["onehot/grad_log_prob_wrt_x_is_None"]
    assert not jax.grad(lambda v: dist.log_prob(v).sum())(x).any()


def test_truncated_normal(units):
    a = {k.split("/")[1]: jnp.asarray(v) for k, v in units[0].items() if "trunc_normal/" in k[:13]}
    loc, scale, x = (a[k][..., None] for k in ("loc", "scale", "x"))

    def each(fn, *args):
        return fn(TruncatedNormal(*args))

    close(TruncatedNormal(loc, scale).log_prob(x), a["log_prob"])
    close(TruncatedNormal(loc, scale).entropy(), a["entropy"])
    close(TruncatedNormal(loc, scale).mean()[..., 0], a["mean"])
    close(TruncatedNormal(loc, scale).sample_mode()[..., 0], a["mode"])
    for name, fn in {
        "log_prob": lambda d: d.log_prob(x).sum(),
        "entropy": lambda d: d.entropy().sum(),
    }.items():
        grads = jax.grad(lambda m, s, fn=fn: each(fn, m, s), (0, 1))(loc, scale)
        close(grads[0][..., 0], a[f"grad_{name}_wrt_loc"], GRADIENT)
        close(grads[1][..., 0], a[f"grad_{name}_wrt_scale"], GRADIENT)
    grad = jax.grad(lambda v: TruncatedNormal(loc, scale).log_prob(v).sum())(x)
    close(grad[..., 0], a["grad_log_prob_wrt_x"], GRADIENT)


def test_truncated_normal_sample_gradient(units):
    a = {k.split("/")[1]: jnp.asarray(v) for k, v in units[0].items() if "trunc_normal/" in k[:13]}
    loc, scale, sample = (a["real_sample" + k] for k in ("_loc", "_scale", ""))
    low, high = ((edge - loc) / scale for edge in (-1, 1))
    cdf = jax.scipy.stats.norm.cdf
    noise = (cdf((sample - loc) / scale) - cdf(low)) / (cdf(high) - cdf(low))

    def drawn(loc, scale):
        return TruncatedNormal(loc, scale).sample_from(noise)

    # Far in a tail float32 quantiles are coarse; the original draws in the same precision.
    np.testing.assert_allclose(drawn(loc, scale), sample, atol=1e-4)
    grads = jax.grad(lambda *v: drawn(*v).sum(), (0, 1))(loc, scale)
    np.testing.assert_allclose(grads[0], a["real_sample_grad_loc"], atol=1e-6)
    np.testing.assert_allclose(grads[1], a["real_sample_grad_scale"], atol=1e-3)


def test_tanh_normal(units):
    """The actor of DreamerV1 agrees, with the original's default std of softplus + 0.1."""
    a = {k.split("/")[1]: jnp.asarray(v) for k, v in units[0].items() if "tanh_normal/" in k[:12]}
    out = jnp.stack([a["out"], a["std"]], -1)
    log_prob = tanh_normal(out, raw_std=0.0, min_std=0.1).log_prob(a["x"][..., None])
    close(log_prob, a["log_prob"])


def layer_of(arrays, name):
    """Return a distribution layer's arrays, and its outputs on its inputs by part."""
    prefix = f"distlayer/{name}/"
    a = {k[len(prefix) :]: jnp.asarray(v) for k, v in arrays.items() if k.startswith(prefix)}

    def layer(part):
        out = a["inputs"] @ a[f"var/{part}/kernel"] + a[f"var/{part}/bias"][None]
        return out[..., 0] if a["x"].ndim == 1 else out

    return a, layer


def test_tanh_normal_layer(units):
    # The original draws samples for mode and mean, so there is only the density to compare.
    a, layer = layer_of(units[0], "tanh_normal1")
    out = jnp.concatenate([layer("out"), layer("std")], -1)
    close(tanh_normal(out, raw_std=0.0, min_std=0.1).log_prob(a["x"]), a["log_prob"])


@pytest.mark.parametrize("name", ["mse0", "mse1", "normal1", "binary0", "onehot1", "trunc_normal1"])
def test_distribution_layers(units, name):
    a, layer = layer_of(units[0], name)
    x, kind = a["x"], name[:-1]
    if kind == "mse":
        dist = UnitNormal(layer("out"), x.ndim - 1)
    elif kind == "binary":
        dist = bernoulli(layer("out"))
    elif kind == "normal":
        dist = Gaussian(layer("out"), layer("std"))
    elif kind == "onehot":
        dist = OneHot(layer("out"))
    else:
        out = jnp.concatenate([layer("out"), layer("std")], -1)
        dist = POLICIES["trunc_normal"].make_dist(out)
    close(dist.log_prob(x), a["log_prob"])
    close(dist.entropy() if kind != "mse" else dist.log_prob(x) * 0 + dist.entropy(), a["entropy"])
    if kind == "onehot":
        close(dist.probs, a["mean"])
    elif kind == "binary":
        close(dist.probs, a["mean"])
    else:
        close(dist.mean(), a["mean"])
    close(dist.sample_mode() if kind == "trunc_normal" else dist.mode(), a["mode"])


def test_gaussian(units):
    a = {k.split("/")[1]: jnp.asarray(v) for k, v in units[0].items() if k.startswith("mvn/")}
    first, second = Gaussian(a["m1"], a["s1"]), Gaussian(a["m2"], a["s2"])
    close(first.kl_divergence(second), a["kl"])
    close(first.entropy(), a["entropy"])
    raw = jnp.asarray(units[0]["std_act/raw"])
    stats = GaussianLatent(13, min_std=0.1).stats(jnp.concatenate([jnp.zeros(13), raw]))
    close(stats["std"], units[0]["std_act/sigmoid2_plus_0.1"])


def test_linear_schedule(units):
    schedules = units[1]["schedule"]
    for name, args in {
        "1e-3": (1e-3, 1e-3, 1),
        "linear(1,0.1,100)": (1.0, 0.1, 100),
        "linear(3e-3,3e-4,2.5e6)": (3e-3, 3e-4, 2.5e6),
    }.items():
        for step, value in schedules[name].items():
            close(linear_schedule(*args, float(step)), np.float32(value))


@pytest.mark.parametrize("clip", ["clip_active", "clip_inactive"])
@pytest.mark.parametrize("decay", ["wd", "nowd"])
def test_optimizer(units, clip, decay):
    arrays, info = units
    a = {k: jnp.asarray(v) for k, v in arrays.items() if k.startswith("optimizer/")}
    settings = info[f"optimizer/{decay}"]
    optimizer = make_optimizer(clip=settings["clip"], eps=settings["eps"], decay=settings["wd"])
    base = f"optimizer/{clip}/"
    params = {"w": a[base + "w0"], "b": a[base + "b0"]}
    state = optimizer.init(params)
    cw, cb, tw, tb = (a[base + k] for k in ("cw", "cb", "tw", "tb"))

    def loss_fn(p):
        return 0.5 * ((cw * (p["w"] - tw) ** 2).sum() + (cb * (p["b"] - tb) ** 2).sum())

    for i in range(3):
        loss, grads = jax.value_and_grad(loss_fn)(params)
        params, state, norm = apply_gradients(optimizer, grads, state, params, settings["lr"])
        step = f"{base}{decay}/{i}/"
        close(loss, a[step + "loss"])
        close(norm, a[step + "grad_norm"], GRADIENT)
        np.testing.assert_allclose(params["w"], a[step + "w"], rtol=0, atol=WEIGHTS)
        np.testing.assert_allclose(params["b"], a[step + "b"], rtol=0, atol=WEIGHTS)
