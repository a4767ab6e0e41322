"""Every environment that is registered with gymnasium."""

import functools
import importlib

import gymnasium

from dreamer_jax.envs.registry import EnvSettings, register_task
from dreamer_jax.envs.wrappers import ActionRepeat
from dreamer_jax.errors import UsageError, unknown


@register_task("gym")
def make_gym(name: str, seed: int, settings: EnvSettings) -> gymnasium.Env:
    """Build 'gym:<id>', such as 'gym:CartPole-v1', or 'gym:<module to import>:<id>'.

    Raises:
        UsageError: the id is unknown, or does not take `settings.kwargs`.
    """
    module, _, env_id = name.rpartition(":")
    if module:
        importlib.import_module(module)
    if env_id not in gymnasium.registry:
        raise unknown("gymnasium id", env_id, gymnasium.registry)
    make = functools.partial(
        gymnasium.make,
        env_id,
        max_episode_steps=settings.time_limit or None,
        render_mode="rgb_array" if settings.render else None,
        disable_env_checker=True,  # `adapt` checks every step
    )
    kwargs = dict(settings.kwargs or {})
    try:
        taken = kwargs.keys() & make.keywords.keys()
        if taken:
            raise TypeError(f"{', '.join(sorted(taken))} cannot be chosen here")
        env = make(**kwargs)
    except TypeError as error:
        if not kwargs:
            raise
        raise UsageError(f"config.env.kwargs is {kwargs}, but {env_id} says: {error}") from error
    return ActionRepeat(env, repeat=settings.action_repeat)
