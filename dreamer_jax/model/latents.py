"""The stochastic part of the world-model state, categorical or Gaussian, behind one interface.

Hafner et al. 2021, Section 2.1 (32 categoricals of 32 classes); Hafner et al. 2020 for Gaussian.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import distrax
import jax
import jax.numpy as jnp

from dreamer_jax.model.distributions import Gaussian, OneHot
from dreamer_jax.types import Array, LatentStats


class Latent(Protocol):
    """How a network output becomes a latent distribution, and what noise it samples from."""

    @property
    def stats_size(self) -> int:
        """Outputs that the prior and posterior heads need."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""

    def stats(self, out: Array) -> LatentStats:
        """[..., stats_size] network output -> parameters."""

    def dist(self, stats: LatentStats) -> distrax.Distribution:
        """Parameters -> distribution with `sample_from` and `sample_mode`."""

    def noise(self, key: Array, shape: tuple[int, ...]) -> Array:
        """Noise for `shape` samples, as the distribution's `sample_from` takes it."""


@dataclass(frozen=True)
class CategoricalLatent:
    """`variables` independent one-hot variables of `classes` classes each; raw logits."""

    variables: int
    classes: int

    @property
    def stats_size(self) -> int:
        return self.variables * self.classes

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.variables, self.classes)

    def stats(self, out: Array) -> LatentStats:
        return {"logits": out.astype(jnp.float32).reshape(*out.shape[:-1], *self.shape)}

    def dist(self, stats: LatentStats) -> distrax.Distribution:
        return IndependentOneHot(stats["logits"])

    def noise(self, key: Array, shape: tuple[int, ...]) -> Array:
        return jax.random.uniform(key, (*shape, self.variables))


class IndependentOneHot(distrax.Independent):
    """Z independent one-hot variables of one latent state; `logits` is [..., Z, K]."""

    def __init__(self, logits: Array):
        super().__init__(OneHot(logits), 1)

    def sample_from(self, noise: Array) -> Array:
        return self.distribution.sample_from(noise)

    def sample_mode(self) -> Array:
        return self.distribution.sample_mode()


def sigmoid2(x: Array) -> Array:
    """2 * sigmoid(x / 2): 1 and of slope 1/2 at 0, at most 2."""
    return 2 * jax.nn.sigmoid(x / 2)


STD_ACTS: dict[str, Callable[[Array], Array]] = {
    "sigmoid2": sigmoid2,  # Hafner et al. 2021
    "softplus": jax.nn.softplus,  # Hafner et al. 2020
}


@dataclass(frozen=True)
class GaussianLatent:
    """A diagonal Gaussian of `size` variables, std = std_act(x) + min_std."""

    size: int
    min_std: float = 0.1
    std_act: Callable[[Array], Array] = sigmoid2

    @property
    def stats_size(self) -> int:
        return 2 * self.size

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.size,)

    def stats(self, out: Array) -> LatentStats:
        mean, std = jnp.split(out.astype(jnp.float32), 2, -1)
        return {"mean": mean, "std": self.std_act(std) + self.min_std}

    def dist(self, stats: LatentStats) -> distrax.Distribution:
        return Gaussian(stats["mean"], stats["std"])

    def noise(self, key: Array, shape: tuple[int, ...]) -> Array:
        return jax.random.normal(key, (*shape, self.size))


def flatten_stoch(latent: Latent, stoch: Array) -> Array:
    """[..., *latent.shape] -> [..., S]."""
    lead = stoch.shape[: stoch.ndim - len(latent.shape)]
    return stoch.reshape(*lead, -1)
