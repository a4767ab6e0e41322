"""Craftax and Craftax-Classic (Matthews et al. 2024), from symbols or pixels."""

from typing import Any

from gymnasium import spaces

from dreamer_jax.envs.jax_env.protocol import JaxEnv, register_jax_task
from dreamer_jax.envs.registry import EnvSettings
from dreamer_jax.errors import require, unknown
from dreamer_jax.types import Array

IDS = tuple(
    f"Craftax{world}-{view}-v1" for world in ("", "-Classic") for view in ("Symbolic", "Pixels")
)
NEVER = 2**30  # steps


class Craftax:
    """An environment of Craftax without its automatic resets.

    Craftax ends an episode after `max_timesteps` as if the player had died; here that is a
    truncation.

    Args:
        env: the environment.
        params: its parameters.
    """

    def __init__(self, env: Any, params: Any):
        self._env, self._limit = env, params.max_timesteps
        self._params = params.replace(max_timesteps=NEVER)
        box = env.observation_space(params)
        self.observation_space = spaces.Box(float(box.low), float(box.high), box.shape)
        self.action_space = spaces.Discrete(int(env.action_space(params).n))

    def reset(self, key: Array) -> tuple[Any, Array]:
        obs, state = self._env.reset_env(key, self._params)
        return state, obs

    def step(self, key: Array, state: Any, action: Array) -> tuple[Any, Array, Array, Array, Array]:
        obs, state, reward, terminated, _ = self._env.step_env(key, state, action, self._params)
        return state, obs, reward, terminated, state.timestep >= self._limit


@register_jax_task("craftax")
def make_craftax(env_id: str, settings: EnvSettings) -> JaxEnv:
    """Build 'craftax:<id>', such as 'craftax:Craftax-Classic-Pixels-v1'.

    Raises:
        UsageError: the id is unknown, or craftax is not installed.
    """
    require("craftax", extra="craftax")
    from craftax.craftax_env import make_craftax_env_from_name

    if env_id not in IDS:
        raise unknown("craftax id", env_id, IDS)
    env = make_craftax_env_from_name(env_id, auto_reset=False)
    return Craftax(env, env.default_params)
