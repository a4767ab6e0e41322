"""The KL loss between posterior and prior: balanced (DreamerV2) or plain (DreamerV1)."""

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
    """KL balancing: (1 - balance) KL(post || sg prior) + balance KL(sg post || prior).

    Hafner et al. 2021, Algorithm 2. Each KL is clamped from below by `free_nats` after the mean
    over batch and time, or before it where `free_avg` is False.

    Returns:
        The scalar loss and the unclamped KL [...] in nats, summed over latent variables.
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
    """KL(post || prior) with its whole gradient to both sides (Hafner et al. 2020, Eq. 10).

    Not the same as a balance of 0.5, which gives each side half of its gradient. Arguments and
    results are those of `balanced_kl`; `balance` has no effect.
    """
    del balance
    kl = latent.dist(posterior).kl_divergence(latent.dist(prior))
    clamp = _clamped_mean if free_avg else _mean_of_clamped
    return clamp(kl, free_nats), kl


KL_LOSSES = {"balanced": balanced_kl, "plain": plain_kl}


def _clamped_mean(kl: Array, free_nats: Array | float) -> Array:
    return jnp.maximum(kl.mean(), free_nats)


def _mean_of_clamped(kl: Array, free_nats: Array | float) -> Array:
    return jnp.maximum(kl, free_nats).mean()
