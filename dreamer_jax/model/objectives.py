"""What makes the world model's representation: the likelihood of the observation."""

from collections.abc import Callable, Mapping

import chex

from dreamer_jax.model.distributions import unit_normal
from dreamer_jax.types import Array

# (decoder's means, targets) -> log-likelihood [B, T] of each observation entry
ObjectiveFn = Callable[[Mapping[str, Array], Mapping[str, Array]], dict[str, Array]]


def reconstruction(means: Mapping[str, Array], obs: Mapping[str, Array]) -> dict[str, Array]:
    """ln p(x | feature), unit-variance normal, 0.5 ln 2 pi included (Hafner et al. 2021, Eq. 2).

    Args:
        means: decoder outputs, images [B, T, 64, 64, C], vectors [B, T, V]; obs: the targets.

    Returns:
        Per entry the log-likelihood [B, T], summed over pixels or vector elements.
    """
    likes = {}
    for key, mean in means.items():
        chex.assert_equal_shape([mean, obs[key]])
        likes[key] = unit_normal(mean, mean.ndim - 2).log_prob(obs[key])
    return likes


OBJECTIVES: dict[str, ObjectiveFn] = {"reconstruction": reconstruction}
