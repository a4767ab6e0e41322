"""Distributions against hand-worked numbers; sampling from explicit noise and its gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax.model.distributions import (
    FactoredOneHot,
    Gaussian,
    OneHot,
    UnitNormal,
    bernoulli,
    from_noise,
    take_mode,
)
from dreamer_jax.model.latents import (
    STD_ACTS,
    CategoricalLatent,
    GaussianLatent,
    IndependentOneHot,
)
from dreamer_jax.runtime import make_backend

ALMOST_ONE = np.nextafter(np.float32(1), np.float32(0))


def logits_of(*probs):
    return jnp.log(jnp.array(probs))


def below(value):
    return np.nextafter(np.float32(value), np.float32(0))


def test_one_hot_numbers():
    p, q = OneHot(logits_of(0.5, 0.5)), OneHot(logits_of(0.25, 0.75))
    # 0.5 ln(0.5 / 0.25) + 0.5 ln(0.5 / 0.75) = 0.346574 - 0.202733
    np.testing.assert_allclose(p.kl_divergence(q), 0.143841, rtol=1e-5)
    np.testing.assert_allclose(q.log_prob(jnp.array([0.0, 1.0])), math.log(0.75), rtol=1e-6)
    three = OneHot(logits_of(0.5, 0.25, 0.25))
    np.testing.assert_allclose(three.entropy(), 1.5 * math.log(2), rtol=1e-6)
    np.testing.assert_array_equal(three.sample_mode(), [1.0, 0.0, 0.0])
    two = IndependentOneHot(jnp.stack([logits_of(0.5, 0.5), logits_of(0.25, 0.75)]))
    np.testing.assert_allclose(
        two.entropy(), OneHot(logits_of(0.5, 0.5)).entropy() + q.entropy(), rtol=1e-6
    )


@pytest.mark.parametrize(
    ("noise", "index"),
    [
        (0.0, 0),
        (below(0.25), 0),
        (0.25, 1),  # an edge belongs to the class above it
        (below(0.5), 1),
        (0.5, 2),
        (below(0.75), 2),
        (0.75, 3),
        (ALMOST_ONE, 3),
    ],
)
def test_inverse_cdf_edges(noise, index):
    # Four equal logits: the probabilities and their sums are exact in float32.
    value = OneHot(jnp.zeros(4)).sample_from(jnp.float32(noise))
    np.testing.assert_array_equal(value, np.eye(4)[index])


@pytest.mark.parametrize("noise", [0.0, below(0.5), 0.5, ALMOST_ONE])
def test_inverse_cdf_never_draws_an_impossible_class(noise):
    logits = jnp.array([-1e9, 0.0, -1e9, 0.0])
    value = OneHot(logits).sample_from(jnp.float32(noise))
    np.testing.assert_array_equal(value, np.eye(4)[1 if noise < 0.5 else 3])


def test_inverse_cdf_draws_one_class_wherever_the_noise_lies():
    """Noise at each sum of the probabilities, and one step of its resolution to both sides."""
    rng = np.random.default_rng(7)
    logits = jnp.asarray(6 * rng.normal(size=(300, 32)), jnp.float32)
    sums = np.asarray(OneHot(logits).probs, np.float64).cumsum(-1)
    draw = jax.jit(lambda x, u: OneHot(x[:, None].repeat(32, 1)).sample_from(u))
    for step in (-1, 0, 1):
        noise = np.clip(np.round(sums * 2**23) + step, 0, 2**23 - 1) / 2**23
        value = np.asarray(draw(logits, jnp.asarray(noise, jnp.float32)))
        np.testing.assert_array_equal(value.sum(-1), 1)
        # The noise lies within the class that is drawn, up to what 32 roundings make of its edges.
        high = np.take_along_axis(sums, value.argmax(-1), -1)
        low = np.take_along_axis(sums - np.diff(sums, prepend=0), value.argmax(-1), -1)
        assert (low - 1e-5 <= noise).all() and (noise <= high + 1e-5).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("rule", [from_noise, take_mode])
def test_one_hot_values_are_exact(dtype, rule):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(4 * rng.normal(size=(500, 7)), dtype)
    noise = jnp.asarray(rng.uniform(size=500), jnp.float32)
    value = jax.jit(lambda x, u: rule(OneHot(x), u))(logits, noise)
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(np.sort(value, -1), np.tile(np.eye(7)[6], (500, 1)))


def test_inverse_cdf_in_the_last_class_survives_rounding():
    # Probabilities of 999 classes sum to a little less or more than 1 in float32.
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(50, 999)), jnp.float32)
    value = jax.jit(lambda x, u: OneHot(x).sample_from(u))(logits, jnp.full(50, ALMOST_ONE))
    np.testing.assert_array_equal(value.sum(-1), np.ones(50))


def test_one_hot_frequencies():
    probs, draws = np.array([0.05, 0.1, 0.2, 0.25, 0.4]), 20_000
    noise = CategoricalLatent(1, 5).noise(jax.random.key(2), (draws,))[:, 0]
    logits = jnp.broadcast_to(logits_of(*probs), (draws, 5))
    counts = np.asarray(OneHot(logits).sample_from(noise)).sum(0)
    chi_square = ((counts - draws * probs) ** 2 / (draws * probs)).sum()
    assert chi_square < 18.47  # 99.9 % quantile of 4 degrees of freedom


@pytest.mark.parametrize("rule", [from_noise, take_mode])
def test_straight_through_gradient_is_that_of_the_probabilities(rule):
    logits = jnp.array([0.3, -1.0, 0.8])
    ours = jax.jit(jax.jacobian(lambda x: rule(OneHot(x), jnp.float32(0.4))))(logits)
    p = np.asarray(jax.nn.softmax(logits))
    np.testing.assert_allclose(ours, np.diag(p) - np.outer(p, p), atol=1e-6)


def test_one_hot_log_prob_gradients():
    logits, value = jnp.array([0.3, -1.0, 0.8]), jnp.array([0.0, 1.0, 0.0])
    grads = jax.jit(jax.grad(lambda x, y: OneHot(x).log_prob(y), (0, 1)))(logits, value)
    np.testing.assert_allclose(grads[0], value - jax.nn.softmax(logits), atol=1e-6)
    np.testing.assert_array_equal(grads[1], np.zeros(3))


def test_gaussian_numbers():
    narrow = Gaussian(jnp.zeros(2), jnp.ones(2))
    wide = Gaussian(jnp.array([1.0, 0.0]), jnp.array([2.0, 1.0]))
    # ln 2 + (1 + 1) / 8 - 1 / 2; the second variable adds nothing.
    np.testing.assert_allclose(narrow.kl_divergence(wide), 0.4431472, rtol=1e-5)
    np.testing.assert_allclose(narrow.entropy(), 2 * 1.4189385, rtol=1e-6)
    np.testing.assert_array_equal(wide.sample_from(jnp.array([-0.5, 3.0])), [0.0, 3.0])
    np.testing.assert_array_equal(wide.sample_mode(), [1.0, 0.0])
    noise = jnp.array([-0.5, 3.0])
    grads = jax.grad(lambda m, s: Gaussian(m, s).sample_from(noise).sum(), (0, 1))(
        jnp.zeros(2), jnp.ones(2)
    )
    np.testing.assert_array_equal(grads[0], [1.0, 1.0])
    np.testing.assert_array_equal(grads[1], noise)


def test_latent_parameters():
    stats = GaussianLatent(2, min_std=0.1).stats(jnp.array([3.0, 4.0, 0.0, 0.8], jnp.bfloat16))
    np.testing.assert_array_equal(stats["mean"], [3.0, 4.0])
    np.testing.assert_allclose(stats["std"], [1.1, 1.2973753], rtol=2e-3)
    softplus = GaussianLatent(1, 0.1, STD_ACTS["softplus"]).stats(jnp.array([3.0, -1.0]))
    np.testing.assert_allclose(softplus["std"], [math.log(1 + math.exp(-1)) + 0.1], rtol=1e-6)
    out = jnp.arange(6.0)
    logits = CategoricalLatent(2, 3).stats(out)["logits"]
    np.testing.assert_array_equal(logits, [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])


def test_unit_normal_keeps_its_constant():
    # -(0.5 * (1 + 4 + 0) + 3 * 0.9189385)
    dist = UnitNormal(jnp.zeros(3), 1)
    np.testing.assert_allclose(dist.log_prob(jnp.array([1.0, -2.0, 0.0])), -5.2568156, rtol=1e-6)


@pytest.mark.parametrize("steps", [20, 32])
def test_log_likelihoods_of_images_are_precise_where_sums_are_sequential(steps, as_shipped):
    """As XLA makes them with the options of an update, which were wrong by 6.8 and 1.5 nats."""
    mean, image = np.zeros((8, steps, 64, 64, 3), np.float32), np.float32(0.01)
    found = jax.jit(
        lambda mean, image: UnitNormal(mean, 3).log_prob(image).mean(),
        compiler_options=dict(make_backend().compiler_options),
    )(mean, image)
    np.testing.assert_allclose(found, -64 * 64 * 3 * (0.9189385 + 0.00005), rtol=5e-6)


def test_bernoulli_takes_soft_labels():
    logits = jnp.full(3, math.log(3))  # p = 0.75: ln p = -0.2876821, ln(1 - p) = -1.3862944
    expected = [-0.2876821, -1.3862944, 0.5 * (-0.2876821 - 1.3862944)]
    np.testing.assert_allclose(bernoulli(logits).log_prob(jnp.array([1, 0, 0.5])), expected, 1e-5)


FACTORS = (2, 3, 1)  # probabilities 1/4, 3/4 | 1/2, 1/8, 3/8 | 1


def factored():
    return FactoredOneHot(logits_of(0.25, 0.75, 0.5, 0.125, 0.375, 7.0), FACTORS)


def test_factors_are_independent_categoricals():
    chosen = jnp.array([0.0, 1.0, 0.0, 0.0, 1.0, 1.0])
    np.testing.assert_allclose(factored().log_prob(chosen), math.log(0.75 * 0.375), rtol=1e-6)
    # 1/4 ln 4 + 3/4 ln 4/3 = 0.5623351; 1/2 ln 2 + 1/8 ln 8 + 3/8 ln 8/3 = 0.9743148; 0.
    np.testing.assert_allclose(factored().entropy(), 0.5623351 + 0.9743148, rtol=1e-6)
    np.testing.assert_array_equal(factored().sample_mode(), [0, 1, 1, 0, 0, 1])


@pytest.mark.parametrize(
    ("noise", "expected"),
    [
        ((0.0, 0.0, 0.0), [1, 0, 1, 0, 0, 1]),
        ((0.24, 0.55, 0.5), [1, 0, 0, 1, 0, 1]),
        ((0.26, 0.63, 0.9), [0, 1, 0, 0, 1, 1]),
        ((ALMOST_ONE,) * 3, [0, 1, 0, 0, 1, 1]),
    ],
)
def test_each_factor_is_sampled_by_its_own_noise(noise, expected):
    np.testing.assert_array_equal(factored().sample_from(jnp.array(noise)), expected)


def test_gradients_of_factors_are_those_of_separate_categoricals():
    rng = np.random.default_rng(0)
    logits, noise, weight = rng.normal(size=(4, 6)), rng.uniform(size=(4, 3)), rng.normal(size=6)

    def together(logits):
        dist = FactoredOneHot(logits, FACTORS)
        sample = dist.sample_from(jnp.asarray(noise, jnp.float32))
        return ((sample * weight[None]).sum(-1) + dist.log_prob(sample) + dist.entropy()).sum()

    def apart(logits):
        total, start = 0.0, 0
        for i, choices in enumerate(FACTORS):
            dist = OneHot(logits[:, start : start + choices])
            sample = dist.sample_from(jnp.asarray(noise[:, i], jnp.float32))
            total += (sample * weight[None, start : start + choices]).sum()
            total += (dist.log_prob(sample) + dist.entropy()).sum()
            start += choices
        return total

    logits = jnp.asarray(logits, jnp.float32)
    (a, da), (b, db) = jax.jit(
        lambda x: (jax.value_and_grad(together)(x), jax.value_and_grad(apart)(x))
    )(logits)
    np.testing.assert_allclose(a, b, rtol=1e-5)
    np.testing.assert_allclose(da, db, atol=1e-6)
