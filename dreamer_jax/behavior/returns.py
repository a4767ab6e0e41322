"""Returns of imagined trajectories."""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from dreamer_jax.types import Array


def lambda_return(
    reward: Array, value: Array, discount: Array, bootstrap: Array, lambda_: Array | float
) -> Array:
    """V[t] = r[t] + d[t] * ((1 - lambda) v[t+1] + lambda V[t+1]), V[H] = v[H] = bootstrap.

    Hafner et al. 2021, Eq. 4.

        reward     r0  r1  ...  r[H-1]
        discount   d0  d1  ...  d[H-1]
        value      v0  v1  ...  v[H-1]   bootstrap = v[H]

    Args:
        reward, value, discount: [H, ...]; bootstrap: [...]; lambda_: scalar in [0, 1].

    Returns:
        [H, ...] targets for the states at 0 ... H-1.
    """
    chex.assert_equal_shape([reward, value, discount])
    chex.assert_equal_shape([reward[0], bootstrap])
    next_value = jnp.concatenate([value[1:], bootstrap[None]])
    inputs = reward + discount * (1 - lambda_) * next_value

    def step(following, entry):
        here, weight = entry
        following = here + weight * lambda_ * following
        return following, following

    _, returns = jax.lax.scan(step, bootstrap, (inputs, discount), reverse=True)
    return returns


def bootstrapped(reward: Array, value: Array, discount: Array, lambda_: Array | float) -> Array:
    """`lambda_return` of a rollout whose last value is the bootstrap.

    Args: all but lambda_: [H+1, N]. Returns: [H, N].
    """
    return lambda_return(reward[:-1], value[:-1], discount[:-1], value[-1], lambda_)


def reward_sum(reward: Array, value: Array, discount: Array, lambda_: Array | float) -> Array:
    """V[t] = r[t] + ... + r[H], without a value: Dreamer's ablation (Hafner et al. 2020, Eq. 4).

    Args: all but lambda_: [H+1, N]. Returns: [H, N].
    """
    del value, discount, lambda_
    return jnp.cumsum(reward[::-1], 0)[::-1][:-1]


ReturnFn = Callable[[Array, Array, Array, Array], Array]
RETURNS: dict[str, ReturnFn] = {"lambda": bootstrapped, "reward_sum": reward_sum}


def imagination_weight(discount: Array) -> Array:
    """weight[t] = prod_{i < t} discount[i], no gradient: how likely step t is reached.

    Args: discount: [H+1, ...]. Returns: [H+1, ...], weight[0] = 1.
    """
    ones = jnp.ones_like(discount[:1])
    weight = jnp.cumprod(jnp.concatenate([ones, discount[:-1]]), 0)
    return jax.lax.stop_gradient(weight)


def linear_schedule(start: Array, final: Array, steps: Array, step: Array) -> Array:
    """Go linearly from `start` to `final` in `steps`, then stay; all scalars, steps >= 1."""
    share = jnp.clip(step / steps, 0.0, 1.0)
    return start + (final - start) * share
