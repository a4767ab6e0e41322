"""Every environment that is registered with gymnasium."""

import importlib

import gymnasium

from dreamer_jax.envs.registry import EnvSettings, register_task
from dreamer_jax.envs.wrappers import ActionRepeat
from dreamer_jax.errors import unknown


@register_task("gym")
def make_gym(name: str, seed: int, settings: EnvSettings) -> gymnasium.Env:
    """Build 'gym:<id>', such as 'gym:CartPole-v1', or 'gym:<module to import>:<id>'.

    Raises:
        UsageError: the id is unknown.
    """
    module, _, env_id = name.rpartition(":")
    if module:
        importlib.import_module(module)
    if env_id not in gymnasium.registry:
        raise unknown("gymnasium id", env_id, gymnasium.registry)
    env = gymnasium.make(
        env_id,
        max_episode_steps=settings.time_limit or None,
        render_mode="rgb_array" if settings.render else None,
        disable_env_checker=True,  # `adapt` checks every step
    )
    return ActionRepeat(env, repeat=settings.action_repeat)
