"""The KL loss between posterior and prior: balanced (DreamerV2) or plain (DreamerV1).

Both losses take the same arguments and are registered in `KL_LOSSES`.
"""

import jax
import jax.numpy as jnp

from dreamer_jax.model.latents import Latent
from dreamer_jax.types import Array, LatentStats


def balanced_kl(
    latent: Latent,
    posterior: LatentStats,
    prior: LatentStats,
    *,
    balance: Array | float,
    free_nats: Array | float,
    free_avg: bool = True,
) -> tuple[Array, Array]:
    """Compute the KL loss with balancing (Hafner et al. 2021, Algorithm 2).

    loss = (1 - balance) KL(post || sg prior) + balance KL(sg post || prior).

    Args:
        latent: kind of the latent variables.
        posterior: parameters of the posterior, [B, T, ...].
        prior: parameters of the prior, [B, T, ...].
        balance: share of the gradient that trains the prior, in [0, 1].
        free_nats: nats below which the KL is clamped.
        free_avg: clamp the mean over batch and time, instead of every step.

    Returns:
        The scalar loss and the unclamped KL [B, T] in nats, summed over latent variables.
    """
    sg = jax.lax.stop_gradient
    post_kl = latent.dist(posterior).kl_divergence(latent.dist(sg(prior)))
    prior_kl = latent.dist(sg(posterior)).kl_divergence(latent.dist(prior))
    clamp = _clamped_mean if free_avg else _mean_of_clamped
    return (1 - balance) * clamp(post_kl, free_nats) + balance * clamp(prior_kl, free_nats), post_kl


def plain_kl(
    latent: Latent,
    posterior: LatentStats,
    prior: LatentStats,
    *,
    balance: Array | float,
    free_nats: Array | float,
    free_avg: bool = True,
) -> tuple[Array, Array]:
    """Compute KL(post || prior) with its full gradient to both sides (Hafner et al. 2020, Eq. 10).

    A balance of 0.5 would give each side half of its gradient. Arguments and results are those of
    `balanced_kl`; `balance` has no effect.
    """
    kl = latent.dist(posterior).kl_divergence(latent.dist(prior))
    clamp = _clamped_mean if free_avg else _mean_of_clamped
    return clamp(kl, free_nats), kl


KL_LOSSES = {"balanced": balanced_kl, "plain": plain_kl}


def _clamped_mean(kl: Array, free_nats: Array | float) -> Array:
    return jnp.maximum(kl.mean(), free_nats)


def _mean_of_clamped(kl: Array, free_nats: Array | float) -> Array:
    return jnp.maximum(kl, free_nats).mean()
