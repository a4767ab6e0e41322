"""Returns, weights and schedules of imagined trajectories, as functions of arrays alone."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from dreamer_jax.types import Array


def lambda_return(
    reward: Array, value: Array, discount: Array, bootstrap: Array, lambda_: Array | float
) -> Array:
    """Return V[t] = r[t] + d[t] * ((1 - lambda) v[t+1] + lambda V[t+1]), V[H] = v[H] = bootstrap.

    This is Eq. 4 of Hafner et al. 2021.

        reward     r0  r1  ...  r[H-1]
        discount   d0  d1  ...  d[H-1]
        value      v0  v1  ...  v[H-1]   bootstrap = v[H]
        target     V0  V1  ...  V[H-1]

    Args:
        reward, value, discount: [H, ...].
        bootstrap: [...], the value after the last reward.
        lambda_: scalar in [0, 1].
    """
    chex.assert_equal_shape([reward, value, discount])
    chex.assert_equal_shape([reward[0], bootstrap])
    next_value = jnp.concatenate([value[1:], bootstrap[None]])
    inputs = reward + discount * (1 - lambda_) * next_value
    returns = [bootstrap]
    for here, weight in zip(inputs[::-1], discount[::-1], strict=True):
        returns.append(here + weight * lambda_ * returns[-1])
    return jnp.stack(returns[:0:-1])  # without a loop all steps are one kernel on an accelerator


# (reward [H+1, N], value=[H+1, N], discount=[H+1, N], lambda_=scalar) -> targets [H, N]
ReturnFn = Callable[..., Array]


def bootstrapped(reward: Array, *, value: Array, discount: Array, lambda_: Array | float) -> Array:
    """Return the `lambda_return` of a rollout, with its last value as the bootstrap."""
    return lambda_return(reward[:-1], value[:-1], discount[:-1], value[-1], lambda_)


def reward_sum(reward: Array, **_: Array | float) -> Array:
    """Return V[t] = r[t] + ... + r[H], without a value (Hafner et al. 2020, Eq. 4)."""
    return jnp.cumsum(reward[::-1], 0)[::-1][:-1]


RETURNS: dict[str, ReturnFn] = {"lambda": bootstrapped, "reward_sum": reward_sum}


def imagination_weight(discount: Array) -> Array:
    """Return weight[t] = prod_{i < t} discount[i] without gradient; both are [H+1, ...].

    It is the probability that an imagined episode reaches step t.
    """
    ones = jnp.ones_like(discount[:1])
    weight = jnp.cumprod(jnp.concatenate([ones, discount[:-1]]), 0)
    return jax.lax.stop_gradient(weight)


def linear_schedule(start: Array, final: Array, steps: Array, step: Array) -> Array:
    """Interpolate linearly from `start` to `final` in `steps`, then stay there; all scalars."""
    share = jnp.clip(step / steps, 0.0, 1.0)
    return start + (final - start) * share
