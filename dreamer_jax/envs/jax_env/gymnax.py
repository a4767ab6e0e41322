"""The environments of gymnax: classic control, bsuite and MinAtar as JAX programs."""

from typing import Any

from gymnasium import spaces

from dreamer_jax.envs.jax_env.protocol import JaxEnv, register_jax_task
from dreamer_jax.envs.registry import EnvSettings
from dreamer_jax.errors import UsageError, require, unknown
from dreamer_jax.types import Array


class Gymnax:
    """An environment of gymnax without its automatic resets.

    Args:
        env: the environment.
        params: its parameters, with the time limit, at which episodes are truncated.
    """

    def __init__(self, env: Any, params: Any):
        convert = require("gymnax", extra="gymnax").environments.spaces.gymnax_space_to_gym_space
        self._env, self._params = env, params
        self.observation_space: spaces.Space = convert(env.observation_space(params))
        self.action_space: spaces.Space = convert(env.action_space(params))

    def reset(self, key: Array) -> tuple[Any, Any]:
        obs, state = self._env.reset_env(key, self._params)
        return state, obs

    def step(self, key: Array, state: Any, action: Array) -> tuple[Any, Any, Array, Array, Array]:
        obs, state, reward, terminated, _ = self._env.step_env(key, state, action, self._params)
        return state, obs, reward, terminated, self._env.is_truncated(state, self._params)


@register_jax_task("gymnax")
def make_gymnax(env_id: str, settings: EnvSettings) -> JaxEnv:
    """Build 'gymnax:<id>', such as 'gymnax:Breakout-MinAtar' or 'gymnax:Catch-bsuite'.

    Raises:
        UsageError: the id is unknown, or gymnax is not installed.
    """
    gymnax = require("gymnax", extra="gymnax")
    if env_id not in gymnax.registered_envs:
        raise unknown("gymnax id", env_id, gymnax.registered_envs)
    try:
        env, params = gymnax.make(env_id)
    except Exception as error:
        raise UsageError(f"the environment gymnax:{env_id} cannot be made: {error}") from error
    return Gymnax(env, params)
