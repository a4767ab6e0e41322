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
        UsageError: the id is unknown, does not take `settings.kwargs`, or needs a package that is
            not installed.
    """
    module, _, env_id = name.rpartition(":")
    make = functools.partial(
        gymnasium.make,
        env_id,
        max_episode_steps=settings.time_limit or None,
        disable_env_checker=True,  # `adapt` checks every step
    )
    if settings.render:  # not every environment takes a render_mode
        make = functools.partial(make, render_mode="rgb_array")
    kwargs = dict(settings.kwargs or {})
    try:
        if module:
            importlib.import_module(module)
        if env_id not in gymnasium.registry:
            raise _unknown_id(env_id)
        if taken := kwargs.keys() & {*make.keywords, "render_mode"}:
            raise TypeError(f"{', '.join(sorted(taken))} cannot be chosen here")
        env = make(**kwargs)
    except (gymnasium.error.Error, ImportError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"the environment gym:{name} cannot be made: {reason}") from error
    except TypeError as error:
        if not kwargs:
            raise
        raise UsageError(f"config.env.kwargs is {kwargs}, but {env_id} says: {error}") from error
    return ActionRepeat(env, repeat=settings.action_repeat)


def _unknown_id(env_id: str) -> UsageError:
    namespace = env_id.partition("/")[0]
    if "/" not in env_id or any(known.startswith(f"{namespace}/") for known in gymnasium.registry):
        return unknown("gymnasium id", env_id, gymnasium.registry)
    module = {"ALE": "ale_py"}.get(namespace, "<module>")
    return UsageError(
        f"no imported module registers {namespace}/...; name the one that does: "
        f"gym:{module}:{env_id}"
    )
