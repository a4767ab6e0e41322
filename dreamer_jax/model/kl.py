"""The KL loss between posterior and prior: balanced (DreamerV2) or plain (DreamerV1)."""

from functools import partial

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
        posterior, prior: parameters of the distributions, [B, T, ...].
        balance: share of the gradient that trains the prior, in [0, 1].
        free_nats: nats below which the KL is clamped.
        free_avg: clamp the mean over batch and time, instead of every step.

    Returns:
        The scalar loss and the unclamped KL [B, T] in nats, summed over latent variables.
    """
    sg = jax.lax.stop_gradient
    post_kl = latent.dist(posterior).kl_divergence(latent.dist(sg(prior)))
    prior_kl = latent.dist(sg(posterior)).kl_divergence(latent.dist(prior))
    clamp = partial(_clamped_mean, free_nats=free_nats, free_avg=free_avg)
    return (1 - balance) * clamp(post_kl) + balance * clamp(prior_kl), post_kl


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

    Arguments and results are those of `balanced_kl`. `balance` has no effect: even 0.5 would leave
    each side only half of its gradient.
    """
    kl = latent.dist(posterior).kl_divergence(latent.dist(prior))
    return _clamped_mean(kl, free_nats, free_avg), kl


KL_LOSSES = {"balanced": balanced_kl, "plain": plain_kl}


def _clamped_mean(kl: Array, free_nats: Array | float, free_avg: bool) -> Array:
    return jnp.maximum(kl.mean(), free_nats) if free_avg else jnp.maximum(kl, free_nats).mean()
