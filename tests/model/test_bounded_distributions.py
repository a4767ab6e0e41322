"""Distributions on [-1, 1] for continuous actions, against hand-worked numbers and integrals."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax.behavior.actor_critic import POLICIES
from dreamer_jax.model.distributions import TanhNormal, TruncatedNormal

ALMOST_ONE = np.nextafter(np.float32(1), np.float32(0))


def test_truncated_normal_numbers():
    # Mass of a standard normal in [-1, 1]: 0.6826895, density at its ends: 0.2419707.
    dist = TruncatedNormal(jnp.zeros(1), jnp.ones(1))
    np.testing.assert_allclose(dist.log_prob(jnp.zeros(1)), -0.9189385 + 0.3817153, rtol=1e-5)
    entropy = 0.5 + 0.9189385 - 0.3817153 - 0.2419707 / 0.6826895
    np.testing.assert_allclose(dist.entropy(), entropy, rtol=1e-5)
    # At loc = 1 the ends are -2 and 0: mass 0.4772499, densities 0.0539910 and 0.3989423.
    edge = TruncatedNormal(jnp.ones(1), jnp.ones(1))
    np.testing.assert_allclose(edge.mean(), [1 + (0.0539910 - 0.3989423) / 0.4772499], rtol=1e-5)
    np.testing.assert_array_equal(edge.sample_mode(), [1.0])
    outside = TruncatedNormal(jnp.array([-3.0]), jnp.ones(1))
    np.testing.assert_array_equal(outside.sample_mode(), [-1.0])


@jax.jit
def truncated_normal_numbers(loc, scale, x):
    dist = TruncatedNormal(loc, scale)
    return dist.log_prob(x), dist.entropy(), dist.mean()


@jax.jit
def truncated_normal_sample(loc, scale, noise):
    return TruncatedNormal(loc, scale).sample_from(noise)


@pytest.mark.parametrize("loc", [-1.0, -0.3, 0.0, 0.9])
@pytest.mark.parametrize("scale", [0.1, 0.5, 2.1])
def test_truncated_normal_integrals(loc, scale):
    """The total probability, entropy and mean agree with integrals of the density."""
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


def test_truncated_normal_samples_have_the_mean():
    dist = TruncatedNormal(jnp.array([0.9, -0.9]), jnp.array([0.1, 0.1]))
    sample = jax.vmap(dist.sample_from)(jax.random.uniform(jax.random.key(0), (1000, 2)))
    np.testing.assert_allclose(sample.mean(0), dist.mean(), atol=0.01)


@pytest.mark.parametrize("noise", [0.0, 0.2, 0.7, ALMOST_ONE])
def test_truncated_normal_sample_gradient(noise):
    """The gradients are 1 and (x - loc) / scale, even where the sample is clipped."""
    loc, scale, noise = jnp.array([0.3]), jnp.array([0.6]), jnp.array([noise], jnp.float32)

    def sample(loc, scale):
        return TruncatedNormal(loc, scale).sample_from(noise)[0]

    value, grads = jax.jit(jax.value_and_grad(sample, (0, 1)))(loc, scale)
    np.testing.assert_array_equal(grads[0], [1.0])
    np.testing.assert_allclose(grads[1], (value - loc) / scale, rtol=1e-5, atol=1e-5)


def test_truncated_normal_policy():
    # tanh(1) = 0.7615942 and 2 sigmoid(0.8 / 2) + 0.1 = 2 * 0.5986877 + 0.1.
    dist = POLICIES["trunc_normal"].make_dist(jnp.array([1.0, 0.0, 0.8, 0.0]))
    np.testing.assert_allclose(dist.loc, [0.7615942, 0.0], rtol=1e-6)
    np.testing.assert_allclose(dist.scale, [1.2973753, 1.1], rtol=1e-6)


@jax.jit
def tanh_normal_numbers(mean, std, y):
    dist = TanhNormal(mean, std)
    return dist.log_prob(y), dist.entropy()


@pytest.mark.parametrize("mean", [-3.0, 0.0, 0.4])
@pytest.mark.parametrize("std", [0.05, 0.5, 5.0])
def test_tanh_normal_integrals(mean, std):
    """The total probability and entropy agree with integrals over x = atanh(y)."""
    x = np.linspace(max(mean - 8 * std, -8.5), min(mean + 8 * std, 8.5), 8001)
    y = np.tanh(x)
    log_prob, entropy = tanh_normal_numbers(
        jnp.full((1, 1), mean), jnp.full((1, 1), std), jnp.asarray(y[:, None], jnp.float32)
    )
    if std < 1:  # otherwise much of it lies between the last float32 and 1
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
    drawn = jax.vmap(dist.sample_from)(jax.random.normal(jax.random.key(0), (1000, 2)))
    np.testing.assert_allclose(np.median(drawn, 0), dist.sample_mode(), atol=0.02)


def test_tanh_normal_policy():
    # Before tanh the mean is 5 tanh(10 / 5), and the std 5 + 1e-4 where the network puts out 0.
    dist = POLICIES["tanh_normal"].make_dist(jnp.array([10.0, 0.0, 0.0, 0.0]))
    noise = jnp.array([-1.0, 0.1])
    expected = np.tanh([5 * math.tanh(2) - 5.0001, 0.50001])
    np.testing.assert_allclose(dist.sample_from(noise), expected, rtol=1e-5)
    drawn = POLICIES["tanh_normal"].noise(jax.random.key(0), (500,), 3)
    assert drawn.shape == (500, 3) and drawn.min() < -1
