"""Many environments as arrays with a leading axis N, each with a random stream of its own."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

from dreamer_jax.envs.jax_env.adapt import AdaptedEnv
from dreamer_jax.types import Array


@struct.dataclass
class EnvRows:
    """The environments of N rows."""

    key: Array  # [N] typed keys, split at every reset and step of the row
    state: Any  # [N, ...]
    obs: dict[str, Array]  # [N, ...], the last observations


def init_rows(env: AdaptedEnv, seeds: Array) -> EnvRows:
    """Return rows [N] with the given seeds [N] uint32, which must be reset before use."""

    def init(seed: Array) -> EnvRows:
        key = jax.random.key(seed, impl="threefry2x32")
        state, obs = jax.tree.map(
            lambda x: (
                jnp.zeros(x.shape, x.dtype)
                if not jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)
                else jnp.copy(jnp.broadcast_to(key, x.shape))  # each is donated on its own
            ),
            jax.eval_shape(env.reset, key),
        )
        return EnvRows(key, state, obs)

    return jax.vmap(init)(seeds)


def reset_rows(env: AdaptedEnv, rows: EnvRows, mask: Array) -> EnvRows:
    """Begin new episodes in the rows of a mask [N]; the others stay as they are."""

    def reset(row: EnvRows, chosen: Array) -> EnvRows:
        key, reset_key = jax.random.split(row.key)
        new = EnvRows(key, *env.reset(reset_key))
        return jax.tree.map(partial(jnp.where, chosen), new, row)

    return jax.vmap(reset)(rows, mask)


def step_rows(
    env: AdaptedEnv, rows: EnvRows, actions: Array, mask: Array
) -> tuple[EnvRows, Array, Array, Array]:
    """Step the rows of a mask [N]; the others stay as they are.

    Returns:
        The rows, and of those stepped the rewards, is_last and is_terminal, [N] each; zero for the
        others.
    """

    def step(row: EnvRows, action: Array, chosen: Array) -> tuple[EnvRows, Array, Array, Array]:
        key, step_key = jax.random.split(row.key)
        state, obs, reward, terminated, truncated = env.step(step_key, row.state, action)
        new = jax.tree.map(partial(jnp.where, chosen), EnvRows(key, state, obs), row)
        is_last = chosen & (terminated | truncated)
        return new, jnp.where(chosen, reward, 0.0), is_last, chosen & terminated

    return jax.vmap(step)(rows, actions, mask)
