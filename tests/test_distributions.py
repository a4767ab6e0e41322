"""Distributions against hand-worked numbers; sampling from explicit noise and its gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mock_agents import fast_jit

from dreamer_jax.behavior.actor_critic import POLICIES
from dreamer_jax.model.distributions import (
    Gaussian,
    OneHot,
    TanhNormal,
    TruncatedNormal,
    bernoulli,
    from_noise,
    take_mode,
    unit_normal,
)
from dreamer_jax.model.latents import (
    STD_ACTS,
    CategoricalLatent,
    GaussianLatent,
    IndependentOneHot,
)

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


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("rule", [from_noise, take_mode])
def test_one_hot_values_are_exact(dtype, rule):
    rng = np.random.default_rng(0)
    logits = jnp.asarray(4 * rng.normal(size=(500, 7)), dtype)
    noise = jnp.asarray(rng.uniform(size=500), jnp.float32)
    value = fast_jit(lambda x, u: rule(OneHot(x), u))(logits, noise)
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(np.sort(value, -1), np.tile(np.eye(7)[6], (500, 1)))


def test_inverse_cdf_in_the_last_class_survives_rounding():
    # Probabilities of 999 classes sum to a little less or more than 1 in float32.
    logits = jnp.asarray(np.random.default_rng(1).normal(size=(50, 999)), jnp.float32)
    value = fast_jit(lambda x, u: OneHot(x).sample_from(u))(logits, jnp.full(50, ALMOST_ONE))
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
    ours = fast_jit(jax.jacobian(lambda x: rule(OneHot(x), jnp.float32(0.4))))(logits)
    p = np.asarray(jax.nn.softmax(logits))
    np.testing.assert_allclose(ours, np.diag(p) - np.outer(p, p), atol=1e-6)


def test_one_hot_log_prob_gradients():
    logits, value = jnp.array([0.3, -1.0, 0.8]), jnp.array([0.0, 1.0, 0.0])
    grads = fast_jit(jax.grad(lambda x, y: OneHot(x).log_prob(y), (0, 1)))(logits, value)
    np.testing.assert_allclose(grads[0], value - jax.nn.softmax(logits), atol=1e-6)
    np.testing.assert_array_equal(grads[1], np.zeros(3))


def test_truncated_normal_numbers():
    # Mass of a standard normal in [-1, 1]: 0.6826895, density at its ends: 0.2419707.
    dist = TruncatedNormal(jnp.zeros(1), jnp.ones(1))
    np.testing.assert_allclose(dist.log_prob(jnp.zeros(1)), -0.9189385 + 0.3817153, rtol=1e-5)
    entropy = 0.5 + 0.9189385 - 0.3817153 - 0.2419707 / 0.6826895
    np.testing.assert_allclose(dist.entropy(), entropy, rtol=1e-5)
    # At loc = 1 the ends are -2 and 0: mass 0.4772499, densities 0.0539910 and 0.3989423.
    edge = TruncatedNormal(jnp.ones(1), jnp.ones(1))
    np.testing.assert_allclose(edge.mean(), [1 + (0.0539910 - 0.3989423) / 0.4772499], rtol=1e-5)
    np.testing.assert_array_equal(edge.mode(), [1.0])
    outside = TruncatedNormal(jnp.array([-3.0]), jnp.ones(1))
    np.testing.assert_array_equal(outside.sample_mode(), [-1.0])


@fast_jit
def truncated_normal_numbers(loc, scale, x):
    dist = TruncatedNormal(loc, scale)
    return dist.log_prob(x), dist.entropy(), dist.mean()


@fast_jit
def truncated_normal_sample(loc, scale, noise):
    return TruncatedNormal(loc, scale).sample_from(noise)


@pytest.mark.parametrize("loc", [-1.0, -0.3, 0.0, 0.9])
@pytest.mark.parametrize("scale", [0.1, 0.5, 2.1])
def test_truncated_normal_integrals(loc, scale):
    """Total probability, entropy and mean are the integrals of the density."""
    x = np.linspace(-1, 1, 4001, dtype=np.float32)
    log_prob, entropy, mean = truncated_normal_numbers(
        jnp.full((1, 1), loc), jnp.full((1, 1), scale), jnp.asarray(x[:, None])
    )
    x, log_prob = np.float64(x), np.float64(log_prob)
    density = np.exp(log_prob)
    np.testing.assert_allclose(np.trapezoid(density, x), 1, atol=2e-4)
    np.testing.assert_allclose(np.trapezoid(-density * log_prob, x), entropy[0], atol=1e-3)
    np.testing.assert_allclose(np.trapezoid(density * x, x), mean[0, 0], atol=1e-3)


def test_truncated_normal_sums_over_actions():
    loc, scale = jnp.array([0.2, -0.5]), jnp.array([0.3, 0.7])
    value = jnp.array([0.1, 0.4])
    both = TruncatedNormal(loc, scale)
    for method in (lambda d, x: d.log_prob(x), lambda d, x: d.entropy()):
        each = [
            method(TruncatedNormal(loc[i, None], scale[i, None]), value[i, None]) for i in (0, 1)
        ]
        np.testing.assert_allclose(method(both, value), sum(each), rtol=1e-5)


@pytest.mark.parametrize("loc", [-1.0, -0.3, 0.0, 0.9])
@pytest.mark.parametrize("scale", [0.1, 0.5, 2.1])
def test_truncated_normal_samples_invert_the_distribution_function(loc, scale):
    noise = np.linspace(0.01, 0.99, 99, dtype=np.float32)[:, None]
    sample = truncated_normal_sample(jnp.full((99, 1), loc), jnp.full((99, 1), scale), noise)

    def cdf(x):
        return 0.5 * (1 + math.erf((x - loc) / scale / math.sqrt(2)))

    share = [(cdf(x) - cdf(-1)) / (cdf(1) - cdf(-1)) for x in np.float64(sample[:, 0])]
    np.testing.assert_allclose(share, noise[:, 0], atol=2e-4)


@pytest.mark.parametrize("loc", [-1.0, 0.0, 1.0])
def test_truncated_normal_samples_lie_inside(loc):
    noise = np.array([0.0, 1e-7, 0.5, ALMOST_ONE], np.float32)
    for scale in (0.1, 0.5, 2.1):
        sample = truncated_normal_sample(jnp.full(4, loc), jnp.full(4, scale), noise)
        assert np.isfinite(sample).all()
        assert np.abs(sample).max() < 1


def test_truncated_normal_samples_from_a_key():
    dist = TruncatedNormal(jnp.array([0.9, -0.9]), jnp.array([0.1, 0.1]))
    sample = dist.sample(seed=jax.random.key(0), sample_shape=1000)
    assert sample.shape == (1000, 2)
    np.testing.assert_allclose(sample.mean(0), dist.mean(), atol=0.01)


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.7, ALMOST_ONE])
def test_truncated_normal_sample_gradient(noise):
    """1 and (x - loc) / scale, also where the sample is clipped."""
    loc, scale, noise = jnp.array([0.3]), jnp.array([0.6]), jnp.array([noise], jnp.float32)

    def sample(loc, scale):
        return TruncatedNormal(loc, scale).sample_from(noise)[0]

    value, grads = fast_jit(jax.value_and_grad(sample, (0, 1)))(loc, scale)
    np.testing.assert_array_equal(grads[0], [1.0])
    np.testing.assert_allclose(grads[1], (value - loc) / scale, rtol=1e-5, atol=1e-5)


def test_truncated_normal_policy():
    # tanh(1) = 0.7615942 and 2 sigmoid(0.8 / 2) + 0.1 = 2 * 0.5986877 + 0.1.
    dist = POLICIES["trunc_normal"].make_dist(jnp.array([1.0, 0.0, 0.8, 0.0]))
    np.testing.assert_allclose(dist.loc, [0.7615942, 0.0], rtol=1e-6)
    np.testing.assert_allclose(dist.scale, [1.2973753, 1.1], rtol=1e-6)


@fast_jit
def tanh_normal_numbers(mean, std, y):
    dist = TanhNormal(mean, std)
    return dist.log_prob(y), dist.entropy()


@pytest.mark.parametrize("mean", [-3.0, 0.0, 0.4])
@pytest.mark.parametrize("std", [0.05, 0.5, 5.0])
def test_tanh_normal_integrals(mean, std):
    """Total probability and entropy are the integrals of the density, taken over x = atanh(y)."""
    x = np.linspace(max(mean - 8 * std, -8.5), min(mean + 8 * std, 8.5), 8001)
    y = np.tanh(x)
    log_prob, entropy = tanh_normal_numbers(
        jnp.full((1, 1), mean), jnp.full((1, 1), std), jnp.asarray(y[:, None], jnp.float32)
    )
    if std < 1:  # else much lies where float32 has no more values below 1
        density = np.exp(np.float64(log_prob)) * (1 - y**2)
        np.testing.assert_allclose(np.trapezoid(density, x), 1, atol=2e-3)
    x = mean + std * np.linspace(-9, 9, 20001)
    normal = np.exp(-0.5 * ((x - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))
    log_slope = 2 * (math.log(2) - np.abs(x) - np.log1p(np.exp(-2 * np.abs(x))))
    expected = 1.4189385 + math.log(std) + np.trapezoid(normal * log_slope, x)
    np.testing.assert_allclose(entropy[0], expected, atol=0.03)


def test_tanh_normal_samples_and_their_gradient():
    mean, std, noise = jnp.array([0.5, -4.0]), jnp.array([0.2, 2.0]), jnp.array([1.5, -9.0])

    def sample(mean, std):
        return TanhNormal(mean, std).sample_from(noise)

    y = sample(mean, std)
    np.testing.assert_allclose(y, [math.tanh(0.8), -1.0], rtol=1e-6)
    grads = jax.grad(lambda *v: sample(*v)[0], (0, 1))(mean, std)
    np.testing.assert_allclose(grads[0], [1 - math.tanh(0.8) ** 2, 0], rtol=1e-5)
    np.testing.assert_allclose(grads[1], [1.5 * (1 - math.tanh(0.8) ** 2), 0], rtol=1e-5)
    dist = TanhNormal(mean, std)
    np.testing.assert_allclose(dist.sample_mode(), np.tanh(mean), rtol=1e-6)
    # A saturated action has a finite density and finite gradients.
    grads = jax.grad(lambda *v: TanhNormal(*v).log_prob(y), (0, 1))(mean, std)
    assert np.isfinite(grads).all()
    drawn = dist.sample(seed=jax.random.key(0), sample_shape=1000)
    assert drawn.shape == (1000, 2)
    np.testing.assert_allclose(np.median(drawn, 0), dist.mode(), atol=0.02)


def test_tanh_normal_policy():
    # Mean 5 tanh(10 / 5) and std softplus(5) + 1e-4 before tanh.
    dist = POLICIES["tanh_normal"].make_dist(jnp.array([10.0, 0.0, 0.0, 0.0]))
    noise = jnp.array([-1.0, 0.1])
    expected = np.tanh([5 * math.tanh(2) - 5.0068153, 0.50068153])
    np.testing.assert_allclose(dist.sample_from(noise), expected, rtol=1e-4)
    drawn = POLICIES["tanh_normal"].noise(jax.random.key(0), (500,), 3)
    assert drawn.shape == (500, 3) and drawn.min() < -1


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
    dist = unit_normal(jnp.zeros(3), 1)
    np.testing.assert_allclose(dist.log_prob(jnp.array([1.0, -2.0, 0.0])), -5.2568156, rtol=1e-6)


def test_bernoulli_takes_soft_labels():
    logits = jnp.full(3, math.log(3))  # p = 0.75: ln p = -0.2876821, ln(1 - p) = -1.3862944
    expected = [-0.2876821, -1.3862944, 0.5 * (-0.2876821 - 1.3862944)]
    np.testing.assert_allclose(bernoulli(logits).log_prob(jnp.array([1, 0, 0.5])), expected, 1e-5)
