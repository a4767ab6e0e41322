"""The stochastic part of the world-model state behind one interface.

Categorical (Hafner et al. 2021, Section 2.1: 32 variables of 32 classes) or Gaussian (Hafner et al.
2020).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import distrax
import jax
import jax.numpy as jnp

from dreamer_jax.model.distributions import Gaussian, NoiseDistribution, OneHot
from dreamer_jax.schema import Key, Registry, choice, integer, number
from dreamer_jax.types import Array, LatentStats


class LatentDist(NoiseDistribution, Protocol):
    """A distribution of the latent state [...]; entropy and KL are summed over its variables."""

    def entropy(self) -> Array: ...

    def kl_divergence(self, other: "LatentDist") -> Array: ...

    def kl_by_variable(self, other: "LatentDist") -> Array:
        """Return the KL divergence [..., Z] of each variable."""


class Latent(Protocol):
    """A kind of latent variables: how a network's output becomes a distribution."""

    @property
    def stats_size(self) -> int:
        """Number of outputs of the prior's and the posterior's heads."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one sample."""

    def stats(self, out: Array) -> LatentStats:
        """Turn a network's output [..., stats_size] into parameters."""

    def dist(self, stats: LatentStats) -> LatentDist:
        """Return the distribution of given parameters."""

    def noise(self, key: Array, shape: tuple[int, ...]) -> Array:
        """Draw noise for `shape` samples, in the form that `sample_from` takes."""


# Factories (Z, **values of the keys registered with it) -> latent.
LATENTS: Registry[Callable[..., Latent]] = Registry()


@LATENTS.register(
    "categorical",
    {"rssm.classes": Key(32, integer(2), "K, classes per categorical latent variable")},
)
@dataclass(frozen=True)
class CategoricalLatent:
    """`stoch` independent one-hot variables of `classes` classes each; the stats are logits."""

    stoch: int  # Z
    classes: int  # K

    @property
    def stats_size(self) -> int:
        return self.stoch * self.classes

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.stoch, self.classes)

    def stats(self, out: Array) -> LatentStats:
        return {"logits": out.astype(jnp.float32).reshape(*out.shape[:-1], *self.shape)}

    def dist(self, stats: LatentStats) -> LatentDist:
        return IndependentOneHot(stats["logits"])

    def noise(self, key: Array, shape: tuple[int, ...]) -> Array:
        return jax.random.uniform(key, (*shape, self.stoch))


class IndependentOneHot(distrax.Independent):
    """The Z independent one-hot variables of a latent state; `logits` is [..., Z, K]."""

    def __init__(self, logits: Array):
        super().__init__(OneHot(logits), 1)

    def sample_from(self, noise: Array) -> Array:
        return self.distribution.sample_from(noise)

    def sample_mode(self) -> Array:
        return self.distribution.sample_mode()

    def kl_by_variable(self, other: "IndependentOneHot") -> Array:
        return self.distribution.kl_divergence(other.distribution)


def sigmoid2(x: Array) -> Array:
    """Return 2 * sigmoid(x / 2): at 0 it is 1 with slope 1/4, and it never exceeds 2."""
    return 2 * jax.nn.sigmoid(x / 2)


STD_ACTS: dict[str, Callable[[Array], Array]] = {
    "sigmoid2": sigmoid2,  # Hafner et al. 2021
    "softplus": jax.nn.softplus,  # Hafner et al. 2020
}


@dataclass(frozen=True)
class GaussianLatent:
    """A diagonal Gaussian of `stoch` variables with std = std_act(x) + min_std."""

    stoch: int  # Z
    min_std: float = 0.1
    std_act: Callable[[Array], Array] = sigmoid2

    @property
    def stats_size(self) -> int:
        return 2 * self.stoch

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.stoch,)

    def stats(self, out: Array) -> LatentStats:
        mean, std = jnp.split(out.astype(jnp.float32), 2, -1)
        return {"mean": mean, "std": self.std_act(std) + self.min_std}

    def dist(self, stats: LatentStats) -> LatentDist:
        return Gaussian(stats["mean"], stats["std"])

    def noise(self, key: Array, shape: tuple[int, ...]) -> Array:
        return jax.random.normal(key, (*shape, self.stoch))


@LATENTS.register(
    "gaussian",
    {
        "rssm.min_std": Key(0.1, number(0), "smallest std of a Gaussian latent"),
        "rssm.std_act": Key(
            "sigmoid2", choice(STD_ACTS), "activation of the std of a Gaussian latent"
        ),
    },
)
def make_gaussian(stoch: int, *, min_std: float, std_act: str) -> GaussianLatent:
    return GaussianLatent(stoch, min_std, STD_ACTS[std_act])


def flatten_stoch(latent: Latent, stoch: Array) -> Array:
    """Flatten latent states [..., *latent.shape] to [..., S]."""
    return stoch.reshape(*stoch.shape[: stoch.ndim - len(latent.shape)], -1)
