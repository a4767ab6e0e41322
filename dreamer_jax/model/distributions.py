"""Distributions that sample from noise that is passed in.

A sampling rule `(distribution, noise) -> value` is an argument of every function from here up to
`train_step`: `from_noise` transforms the noise; `take_mode` ignores it, which makes a complete
update deterministic. Everything here is float32, whatever the compute dtype.
"""

import math
from collections.abc import Callable, Sequence
from typing import Protocol

import chex
import distrax
import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import erf, ndtr, ndtri

from dreamer_jax.types import Array

_LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)


class NoiseDistribution(Protocol):
    """A distribution with reparameterised sampling from explicit noise."""

    def sample_from(self, noise: Array) -> Array: ...

    def sample_mode(self) -> Array: ...


class PolicyDist(NoiseDistribution, Protocol):
    """A distribution of actions."""

    def log_prob(self, value: Array) -> Array: ...

    def entropy(self) -> Array: ...


SampleFn = Callable[[NoiseDistribution, Array], Array]


def from_noise(dist: NoiseDistribution, noise: Array) -> Array:
    """Sample as a function of the noise, with the gradient of the reparameterised sample."""
    return dist.sample_from(noise)


def take_mode(dist: NoiseDistribution, noise: Array) -> Array:
    """Take the mode, with the gradient that a sample would have; the noise has no effect."""
    return dist.sample_mode()


class OneHot(distrax.OneHotCategorical):
    """A one-hot categorical with straight-through gradients: z = onehot(k) + p - sg(p).

    Hafner et al. 2021, Algorithm 1. `logits` is [..., K].
    """

    def __init__(self, logits: Array):
        logits = jnp.asarray(logits, jnp.float32)
        super().__init__(logits=logits, dtype=jnp.float32)
        self._probs = jax.nn.softmax(logits)  # distrax would take that of normalised logits

    def sample_from(self, noise: Array) -> Array:
        """Transform uniform noise [...] in [0, 1) to one-hot [..., K] by the inverse CDF.

        Probabilities are rounded to multiples of 2^-23, the resolution of uniform noise. Their
        sums are then exact in any order and never decrease, so that exactly one class lies between
        a sum that the noise reaches and one that it does not.
        """
        chex.assert_shape(noise, self.logits.shape[:-1])
        probs = jnp.round(jax.lax.stop_gradient(self.probs) * 2**23) / 2**23
        # A matmul, since XLA lowers `cumsum` to a quadratic window.
        ones = np.triu(np.ones((self.num_categories, self.num_categories), np.float32))
        sums = jnp.matmul(probs, ones, precision=jax.lax.Precision.HIGHEST)
        # A class takes the noise from the sum before it up to its own; the last one takes the rest.
        edge = jnp.ones_like(sums[..., :1])
        low = jnp.concatenate([-edge, sums[..., :-1]], -1)
        high = jnp.concatenate([sums[..., :-1], 2 * edge], -1)
        onehot = (low <= noise[..., None]) & (noise[..., None] < high)
        return _straight_through(onehot.astype(jnp.float32), self.probs)

    def sample_mode(self) -> Array:
        index = jnp.argmax(self.logits, -1)
        return _straight_through(jax.nn.one_hot(index, self.num_categories), self.probs)

    def log_prob(self, value: Array) -> Array:
        """Return ln p(value) [...] of one-hot values [..., K], without a gradient to the value.

        The straight-through gradient of a sampled action must not leak into the reinforce term of
        the mixed actor objective.
        """
        return super().log_prob(jax.lax.stop_gradient(value))


@jax.custom_jvp
def _straight_through(onehot: Array, probs: Array) -> Array:
    """Return the one-hot sample with the gradient of the probabilities, both [..., K]."""
    return onehot


@_straight_through.defjvp
def _straight_through_jvp(primals, tangents):
    return primals[0], tangents[1]


class FactoredOneHot:
    """Independent one-hot categoricals over parts of the last axis, one per factor.

    The logits of all factors are computed together, in rows of the longest factor's length. Rows
    are padded at their beginning, so that sampling by the inverse CDF passes over the padding.

    Args:
        logits: [..., A], those of the first factor first.
        factors: F numbers of choices, A in all.
    """

    PADDING = -1e9  # logit of a choice that does not exist: its probability is exactly zero

    def __init__(self, logits: Array, factors: Sequence[int]):
        chex.assert_axis_dimension(logits, -1, sum(factors))
        sizes, longest = np.array(factors), max(factors)
        place = np.arange(longest) - (longest - sizes)[:, None]  # [F, K] within the factor
        self._exists = place >= 0
        self._index = np.maximum(place, 0) + (np.cumsum(sizes) - sizes)[:, None]  # [F, K] within A
        self._dist = OneHot(self._rows(jnp.asarray(logits, jnp.float32), self.PADDING))

    def sample_from(self, noise: Array) -> Array:
        """Transform uniform noise [..., F] in [0, 1) to one-hot vectors in a row, [..., A]."""
        return self._joined(self._dist.sample_from(noise))

    def sample_mode(self) -> Array:
        return self._joined(self._dist.sample_mode())

    def log_prob(self, value: Array) -> Array:
        """Return ln p(value) [...], summed over factors, without a gradient to the value."""
        return self._dist.log_prob(self._rows(value, 0.0)).sum(-1)

    def entropy(self) -> Array:
        """Return the entropy [...] in nats, summed over factors."""
        return self._dist.entropy().sum(-1)

    def _rows(self, joined: Array, padding: float) -> Array:
        """Divide [..., A] into rows [..., F, K]."""
        rows = joined[..., self._index]
        return jnp.where(jnp.broadcast_to(self._exists, rows.shape), rows, padding)

    def _joined(self, rows: Array) -> Array:
        """Undo `_rows`."""
        return rows.reshape(*rows.shape[:-2], -1)[..., np.flatnonzero(self._exists)]


class Gaussian(distrax.MultivariateNormalDiag):
    """A diagonal normal over the last axis: x = mean + std * noise."""

    def __init__(self, mean: Array, std: Array):
        super().__init__(jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32))

    def sample_from(self, noise: Array) -> Array:
        """Scale and shift standard normal noise [..., Z]."""
        return self.loc + self.scale_diag * noise

    def sample_mode(self) -> Array:
        return self.loc

    def kl_by_variable(self, other: "Gaussian") -> Array:
        """Return the KL divergence [..., Z] of each variable."""
        mine, others = (distrax.Normal(dist.loc, dist.scale_diag) for dist in (self, other))
        return mine.kl_divergence(others)


class TruncatedNormal:
    """Independent normals truncated to [-1, 1]; the event is the last axis.

    A sample x has the gradients d/dloc = 1 and d/dscale = (x - loc) / scale of a normal without
    truncation, which pass straight through the final clip to +-(1 - 1e-6).
    """

    CLIP = 1 - 1e-6

    def __init__(self, loc: Array, scale: Array):
        self.loc = jnp.asarray(loc, jnp.float32)  # [..., A] in [-1, 1]
        self.scale = jnp.asarray(scale, jnp.float32)  # [..., A] > 0
        self._low = (-1 - self.loc) / self.scale
        self._high = (1 - self.loc) / self.scale
        self._mass = ndtr(self._high) - ndtr(self._low)

    def sample_from(self, noise: Array) -> Array:
        """Transform uniform noise [..., A] in [0, 1) to values in (-1, 1) by the inverse CDF."""
        quantile = ndtr(self._low) + noise * self._mass
        drawn = jax.lax.stop_gradient(jnp.clip(self.loc + self.scale * ndtri(quantile), -1, 1))
        unit = jax.lax.stop_gradient((drawn - self.loc) / self.scale)
        sample = self.loc + self.scale * unit
        clipped = jnp.clip(sample, -self.CLIP, self.CLIP)
        return sample + jax.lax.stop_gradient(clipped - sample)

    def sample_mode(self) -> Array:
        return jnp.clip(self.loc, -1, 1)

    def log_prob(self, value: Array) -> Array:
        """Return ln p(value) [...], summed over actions, of values [..., A] in [-1, 1]."""
        unit = (value - self.loc) / self.scale
        each = -0.5 * unit**2 - _LOG_SQRT_2PI - jnp.log(self.scale) - jnp.log(self._mass)
        return each.sum(-1)

    def entropy(self) -> Array:
        """Return the entropy [...] in nats, summed over actions."""
        tails = self._low * self._density(self._low) - self._high * self._density(self._high)
        each = 0.5 + _LOG_SQRT_2PI + jnp.log(self.scale * self._mass) + 0.5 * tails / self._mass
        return each.sum(-1)

    def mean(self) -> Array:
        """Return the mean [..., A]."""
        shift = (self._density(self._low) - self._density(self._high)) / self._mass
        return self.loc + self.scale * shift

    @staticmethod
    def _density(unit: Array) -> Array:
        return jnp.exp(-0.5 * unit**2 - _LOG_SQRT_2PI)


class TanhNormal:
    """Independent normals squashed by tanh; the event is the last axis (Hafner et al. 2020, Eq. 3).

    y = tanh(x), x = mean + std * noise, so ln p(y) = ln N(x) - ln(1 - y^2).
    """

    CLIP = 1 - 2**-24  # the largest float32 below 1, where atanh is still finite
    POINTS = 16  # points of the entropy's quadrature

    def __init__(self, mean: Array, std: Array):
        self._mean = jnp.asarray(mean, jnp.float32)  # before tanh, [..., A]
        self._std = jnp.asarray(std, jnp.float32)  # before tanh, [..., A] > 0

    def sample_from(self, noise: Array) -> Array:
        """Transform standard normal noise [..., A] to values in [-1, 1]."""
        return jnp.tanh(self._mean + self._std * noise)

    def sample_mode(self) -> Array:
        """Return the median tanh(mean) [..., A]; the density itself may peak at -1 and 1."""
        return jnp.tanh(self._mean)

    def log_prob(self, value: Array) -> Array:
        """Return ln p(value) [...], summed over actions, of values [..., A] in [-1, 1]."""
        x = jnp.arctanh(jnp.clip(value, -self.CLIP, self.CLIP))
        unit = (x - self._mean) / self._std
        each = -0.5 * unit**2 - _LOG_SQRT_2PI - jnp.log(self._std)
        # ln(1 - tanh(x)^2) without the cancellation at large |x|.
        return (each - 2 * (math.log(2) - x - jax.nn.softplus(-2 * x))).sum(-1)

    def entropy(self) -> Array:
        """Approximate the entropy H[x] + E[ln(1 - tanh(x)^2)], [...] nats summed over actions.

        ln(1 - tanh(x)^2) = 2 ln 2 - 2 |x| - 2 ln(1 + exp(-2 |x|)). The expectation of |x| has a
        closed form; that of the last term, which is bounded, is a mean over equally likely points.
        The error is below 0.03 nats per action for std up to 8.
        """
        ratio = self._mean / self._std
        spread = 2 * self._std * jnp.exp(-0.5 * ratio**2 - _LOG_SQRT_2PI)
        absolute = spread + self._mean * erf(ratio / math.sqrt(2))
        points = ndtri((jnp.arange(self.POINTS) + 0.5) / self.POINTS)
        points = points.reshape(-1, *(1,) * self._mean.ndim)
        x = self._mean[None] + self._std[None] * points
        rest = jnp.log1p(jnp.exp(-2 * jnp.abs(x))).mean(0)
        normal = 0.5 + _LOG_SQRT_2PI + jnp.log(self._std)
        return (normal + 2 * (math.log(2) - absolute - rest)).sum(-1)


class UnitNormal(distrax.Independent):
    """A normal of unit variance whose events are the last `event_ndims` axes of `mean`."""

    def __init__(self, mean: Array, event_ndims: int):
        mean = jnp.asarray(mean, jnp.float32)
        super().__init__(distrax.Normal(mean, jnp.ones_like(mean)), event_ndims)
        self._axes = tuple(range(-event_ndims, 0))

    def log_prob(self, value: Array) -> Array:
        """Return ln p(value), summed over the axes of an event."""
        # The constant is added once per event: it makes 11,292 nats of an image of 64x64x3. XLA may
        # sum over pixels and batch in one sequence, in which a constant per pixel loses several.
        squares = jnp.square(value - self.mean()).sum(self._axes)
        return -0.5 * squares - math.prod(self.event_shape) * _LOG_SQRT_2PI


def bernoulli(logits: Array) -> distrax.Bernoulli:
    """Return a Bernoulli of `logits` [...]; its `log_prob` also takes soft labels in [0, 1]."""
    return distrax.Bernoulli(logits=jnp.asarray(logits, jnp.float32), dtype=jnp.float32)
