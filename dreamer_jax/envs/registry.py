"""Environments by name: the only place that reads a task's name."""

import functools
import importlib
from collections.abc import Callable

import gymnasium
from gymnasium.wrappers import TimeLimit

from dreamer_jax.envs.catch import Catch
from dreamer_jax.envs.reach import Reach
from dreamer_jax.envs.wrappers import ActionRepeat, SeedFirstReset, adapt
from dreamer_jax.errors import UsageError, lookup, unknown

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
        task: one of
            - 'catch', 'reach': embedded.
            - 'atari:<game>' such as 'atari:ms_pacman'.
            - 'dmc:<domain>_<task>' such as 'dmc:walker_walk': 'image' and the task's own vectors;
              'dmc_proprio:<domain>_<task>': the vectors alone, without rendering.
            - 'crafter', and 'crafter:no_reward', which has none.
            - 'minigrid:<id>' such as 'minigrid:MiniGrid-DoorKey-5x5-v0'.
            - 'gym:<id>' such as 'gym:CartPole-v1', or 'gym:<module to import>:<id>'.
            - a function of the seed that returns a gymnasium environment.
        seed: at least 0; the first `reset()` is seeded with it.
        size: height and width of images, in pixels.
        action_repeat: frames per step, at least 1. Atari is played with 4, and then shows the
            maximum of the last two.
        time_limit: frames after which an episode is truncated; 0 for the environment's own limit
            (108,000 for Atari, 10,000 for Crafter, 1000 for DeepMind Control, where it cannot be
            raised).
        sticky: Atari only, the probability that a frame repeats the last frame's action.
        noops: Atari only, the most no-op frames at a reset.
        render: make `render()` return RGB images where that has to be asked for.

    Raises:
        ValueError: an unknown task, game or id, a number out of range, spaces that are not
            supported, or a package or a renderer that is not installed.
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


def _embedded(
    make: type[gymnasium.Env],
    name: str,
    seed: int,
    *,
    action_repeat: int,
    time_limit: int,
    **_,
) -> gymnasium.Env:
    if name:
        raise UsageError(f"the task {make.__name__.lower()!r} takes no name, not {name!r}")
    return _limited(make(), action_repeat, time_limit)


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


def _control(name: str, seed: int, *, action_repeat: int, time_limit: int, **_) -> gymnasium.Env:
    from dreamer_jax.envs.dmc import Control

    return _limited(Control(name, seed=seed), action_repeat, time_limit)


def _control_pixels(name: str, seed: int, *, size: int, **settings) -> gymnasium.Env:
    from dreamer_jax.envs.dmc import Pixels

    return Pixels(_control(name, seed, **settings), size)


def _crafter(name: str, seed: int, *, action_repeat: int, time_limit: int, **_) -> gymnasium.Env:
    from dreamer_jax.envs.crafter import TIME_LIMIT, Crafter

    reward = lookup({"": True, "no_reward": False}, name, "variant of the task 'crafter'")
    env = Crafter(reward=reward, time_limit=time_limit or TIME_LIMIT)
    return ActionRepeat(env, repeat=action_repeat)


def _minigrid(
    name: str, seed: int, *, size: int, action_repeat: int, time_limit: int, **_
) -> gymnasium.Env:
    from dreamer_jax.envs.minigrid import make_minigrid

    env = make_minigrid(name, size=size, time_limit=time_limit)
    return ActionRepeat(env, repeat=action_repeat)


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


TASKS: dict[str, Callable[..., gymnasium.Env]] = {
    "catch": functools.partial(_embedded, Catch),
    "reach": functools.partial(_embedded, Reach),
    "atari": _atari,
    "dmc": _control_pixels,
    "dmc_proprio": _control,
    "crafter": _crafter,
    "minigrid": _minigrid,
    "gym": _gym,
}
