"""Running statistics of vectors, by which they are standardised.

Encoders and losses expect vectors of order 1. Not to predict an entry of standard deviation 0.1
costs 0.005 nats, less than the KL loss of a latent variable that carries it; and beside entries of
order 10 the encoder hardly responds to it. Once standardised, all entries have the same weight.
"""

from collections.abc import Mapping

import jax.numpy as jnp

from dreamer_jax.types import Array, Params

STD_MIN = 1e-6  # least divisor, in the unit of the vector, for entries that have not changed
LIMIT = 10.0  # standard deviations to which values are clipped


def init_stats(sizes: Mapping[str, int]) -> Params:
    """Return the statistics of vectors [V] before the first batch, which only clip values.

    Args:
        sizes: V by name.
    """
    return {
        "batches": jnp.zeros(()),
        "mean": {key: jnp.zeros(size) for key, size in sizes.items()},
        "variance": {key: jnp.ones(size) for key, size in sizes.items()},
    }


def update_stats(stats: Params, obs: Mapping[str, Array]) -> Params:
    """Return the statistics of all batches so far, this one included, each with the same weight.

    Means and variances are merged as of samples of equal size (Chan et al. 1979):
    d = mean_n - mean, mean += d / n, variance += (variance_n - variance + (1 - 1/n) d^2) / n.

    Args:
        stats: those of n - 1 batches.
        obs: batch n, vectors [..., V]; entries without statistics are ignored.
    """
    count = stats["batches"] + 1
    mean, variance = {}, {}
    for key, old in stats["mean"].items():
        values = obs[key].reshape(-1, obs[key].shape[-1])
        change = values.mean(0) - old
        mean[key] = old + change / count
        spread = values.var(0) + (1 - 1 / count) * jnp.square(change)
        variance[key] = stats["variance"][key] + (spread - stats["variance"][key]) / count
    return {"batches": count, "mean": mean, "variance": variance}


def standardize(stats: Params, obs: Mapping[str, Array]) -> dict[str, Array]:
    """Subtract means and divide by standard deviations; keep entries without statistics.

    Args:
        obs: vectors [..., V], and anything else.

    Returns:
        Vectors in standard deviations, clipped to [-LIMIT, LIMIT].
    """

    def scale(key: str, value: Array) -> Array:
        mean, variance = (
            jnp.broadcast_to(stats[x][key], value.shape) for x in ("mean", "variance")
        )
        return jnp.clip((value - mean) / jnp.maximum(jnp.sqrt(variance), STD_MIN), -LIMIT, LIMIT)

    return dict(obs) | {key: scale(key, obs[key]) for key in stats["mean"]}
