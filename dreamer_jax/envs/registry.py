"""Environments by name: the only place that reads a task's name."""

import importlib
from collections.abc import Callable

import gymnasium
from gymnasium.wrappers import TimeLimit

from dreamer_jax.envs.catch import Catch
from dreamer_jax.envs.wrappers import ActionRepeat, SeedFirstReset, adapt
from dreamer_jax.names import lookup, unknown

Task = str | Callable[[int], gymnasium.Env]


def make_env(
    task: Task,
    seed: int,
    *,
    size: int = 64,
    action_repeat: int = 1,
    time_limit: int = 0,
    sticky: float = 0.25,
    noops: int = 30,
    render: bool = False,
) -> gymnasium.Env:
    """Build one environment with normalised spaces (see `wrappers.adapt`).

    Args:
        task: 'catch', 'atari:<game>' such as 'atari:ms_pacman', 'gym:<id>' such as
            'gym:CartPole-v1' (or 'gym:<module to import>:<id>'), or a function of the seed that
            returns a gymnasium environment.
        seed: at least 0; the first `reset()` is seeded with it.
        size: height and width of images, in pixels.
        action_repeat: frames per step, at least 1. Atari is played with 4, and then shows the
            maximum of the last two.
        time_limit: frames after which an episode is truncated; 0 for the environment's own limit
            (108,000 for Atari, none for 'catch').
        sticky: Atari only, the probability that a frame repeats the last frame's action.
        noops: Atari only, the most no-op frames at a reset.
        render: make `render()` return RGB images where that has to be asked for.

    Raises:
        ValueError: an unknown task, game or id, a number out of range, or spaces that are not
            supported.
        FileNotFoundError: the game's ROM is not installed.
    """
    for name, value, least in (
        ("seed", seed, 0),
        ("size", size, 1),
        ("action_repeat", action_repeat, 1),
        ("time_limit", time_limit, 0),
    ):
        if value < least:
            raise ValueError(f"{name} must be at least {least}, not {value}")
    seed = int(seed)
    common = {"action_repeat": action_repeat, "time_limit": time_limit}
    if callable(task):
        env = _from_function(task, seed, **common)
    else:
        prefix, _, name = task.partition(":")
        make = lookup(TASKS, prefix, "task")
        env = make(name, seed, size=size, sticky=sticky, noops=noops, render=render, **common)
    return adapt(SeedFirstReset(env, seed=seed), size=size)


def _catch(name: str, seed: int, *, action_repeat: int, time_limit: int, **_) -> gymnasium.Env:
    if name:
        raise ValueError(f"the task 'catch' takes no name, not {name!r}")
    return _limited(Catch(), action_repeat, time_limit)


def _atari(
    name: str,
    seed: int,
    *,
    size: int,
    action_repeat: int,
    time_limit: int,
    sticky: float,
    noops: int,
    **_,
) -> gymnasium.Env:
    from dreamer_jax.envs.atari import TIME_LIMIT, Atari

    return Atari(
        name,
        size=size,
        action_repeat=action_repeat,
        sticky=sticky,
        noops=noops,
        time_limit=time_limit or TIME_LIMIT,
        seed=seed,
    )


def _gym(
    name: str, seed: int, *, action_repeat: int, time_limit: int, render: bool, **_
) -> gymnasium.Env:
    module, _, env_id = name.rpartition(":")
    if module:
        importlib.import_module(module)
    if env_id not in gymnasium.registry:
        raise unknown("gymnasium id", env_id, gymnasium.registry)
    env = gymnasium.make(
        env_id,
        max_episode_steps=time_limit or None,
        render_mode="rgb_array" if render else None,
        disable_env_checker=True,  # `adapt` checks every step
    )
    return ActionRepeat(env, repeat=action_repeat)


def _from_function(
    make: Callable[[int], gymnasium.Env], seed: int, *, action_repeat: int, time_limit: int
) -> gymnasium.Env:
    env = make(seed)
    if not isinstance(env, gymnasium.Env):
        raise ValueError(f"{make} must return a gymnasium.Env, not a {type(env).__name__}")
    return _limited(env, action_repeat, time_limit)


def _limited(env: gymnasium.Env, action_repeat: int, time_limit: int) -> gymnasium.Env:
    if time_limit:
        env = TimeLimit(env, time_limit)
    return ActionRepeat(env, repeat=action_repeat)


TASKS: dict[str, Callable[..., gymnasium.Env]] = {"catch": _catch, "atari": _atari, "gym": _gym}
