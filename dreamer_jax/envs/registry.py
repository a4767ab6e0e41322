"""The registry of tasks, the only place that reads a task's name."""

import contextlib
import dataclasses
import functools
import inspect
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium
from gymnasium.wrappers import TimeLimit

from dreamer_jax.envs.wrappers import ActionRepeat, SeedFirstReset, adapt, with_seed
from dreamer_jax.errors import UsageError, lookup
from dreamer_jax.schema import Registry

MakeEnv = Callable[[int], gymnasium.Env]  # seed -> environment


@dataclass(frozen=True)
class EnvSettings:
    """Settings that every task is given; a task reads those that apply to it."""

    size: int = 64  # height and width of images, in pixels, at least 1
    images: str | None = None  # pattern of the entries to read as images, see `adapt`
    vectors: str | None = None  # pattern of the entries to read as vectors
    grids: str | None = None  # pattern of the entries to read as grids
    action_repeat: int = 1  # frames per step, at least 1
    time_limit: int = 0  # frames after which an episode is truncated; 0 for the task's own limit
    sticky: float = 0.25  # Atari: probability that a frame repeats the last frame's action
    noops: int = 30  # Atari: maximum number of no-op frames after a reset
    kwargs: Mapping[str, Any] | None = None  # gymnasium's ids: arguments of the environment
    render: bool = False  # request RGB images from `render()` where they must be requested

    def __post_init__(self) -> None:
        for name, least in (("size", 1), ("action_repeat", 1), ("time_limit", 0)):
            value = getattr(self, name)
            if value < least:
                raise ValueError(f"{name} must be at least {least}, not {value}")


MakeTask = Callable[[str, int, EnvSettings], gymnasium.Env]  # variant, seed, settings

TASKS: Registry[MakeTask] = Registry()


def register_task(name: str) -> Callable[[MakeTask], MakeTask]:
    """Return a decorator that registers a function as the maker of a task.

    A module in this package needs nothing else: it is imported with the package, so it must
    import optional dependencies inside its functions. Code outside of the package registers its
    tasks before it trains; docs/extending.md has an example.

    The environment may have any spaces that `adapt` supports. It is adapted, and its first
    `reset()` is seeded, after the maker returns it; `seed` is for randomness in its construction.

    Args:
        name: the part of the task's name before the first colon. The part after it, '' if there
            is none, is the maker's `variant`.
    """
    return TASKS.register(name)


def make_env(task: str | MakeEnv, seed: int, **settings) -> gymnasium.Env:
    """Build one environment with normalised spaces; see `adapt`.

    Args:
        task: a registered name, such as 'catch', 'atari:ms_pacman', 'dmc:walker_walk' or
            'gym:CartPole-v1', or a function from the seed to a gymnasium environment.
        seed: at least 0; the first `reset()` is seeded with it.
        **settings: fields of `EnvSettings`.

    Raises:
        ValueError: an unknown task or variant, a number out of range, spaces that are not
            supported, or a package or renderer that is not installed.
        FileNotFoundError: the ROM of the Atari game is not installed.
    """
    return env_maker(task, **settings)(seed)


def env_maker(task: str | MakeEnv, **settings) -> MakeEnv:
    """Return a function from the seed to the environment of `make_env`.

    It can be pickled by cloudpickle and called in a process in which the task is not registered.
    """
    if isinstance(task, gymnasium.Env):
        raise UsageError(
            f"make_env is an environment, {type(task).__name__}; allowed: a function from a seed "
            "to a new environment, such as lambda seed: gymnasium.make(...)"
        )
    if callable(task):
        make = functools.partial(_call, task)
    elif not isinstance(task, str):
        raise UsageError(
            f"make_env is {task!r}; allowed: a function from a seed to an environment, such as "
            "lambda seed: MyEnv()"
        )
    else:
        name, _, variant = task.partition(":")
        make = functools.partial(lookup(TASKS, name, "task"), variant)
    return functools.partial(_make, make, EnvSettings(**settings))


def with_rendering(maker: MakeEnv) -> MakeEnv:
    """Return a maker of `env_maker` whose environments were asked for images from `render()`."""
    make, settings = maker.args
    return functools.partial(_make, make, dataclasses.replace(settings, render=True))


def _make(
    make: Callable[[int, EnvSettings], gymnasium.Env], settings: EnvSettings, seed: int
) -> gymnasium.Env:
    if seed < 0:
        raise ValueError(f"seed must be at least 0, not {seed}")
    env = with_seed(lambda value: make(value, settings), int(seed))
    env = SeedFirstReset(env, seed=int(seed))
    patterns = {"images": settings.images, "vectors": settings.vectors, "grids": settings.grids}
    return adapt(env, size=settings.size, **patterns)


_returned: "weakref.WeakSet[gymnasium.Env]" = weakref.WeakSet()  # by functions of users


def _call(make: MakeEnv, seed: int, settings: EnvSettings) -> gymnasium.Env:
    env = make(seed)
    if not isinstance(env, gymnasium.Env):
        name = f"{type(env).__module__}.{type(env).__qualname__}"
        raise UsageError(f"make_env returned a {name}; allowed: a gymnasium.Env{_convert(env)}")
    parameters = inspect.signature(env.unwrapped.reset).parameters.values()
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    missing = [] if takes_any else sorted({"seed", "options"} - {p.name for p in parameters})
    if missing:
        raise UsageError(
            f"{type(env.unwrapped).__name__}.reset() takes no {' and no '.join(missing)}; allowed: "
            f"reset(self, *, seed, options), as gymnasium has it since 0.26{_convert(env)}"
        )
    with contextlib.suppress(TypeError):  # it cannot be hashed
        if env.unwrapped in _returned:
            raise UsageError(
                "make_env returned the same environment again; allowed: a new one at every call"
            )
        _returned.add(env.unwrapped)
    return limit_and_repeat(env, settings)


def _convert(env: Any) -> str:
    """Return what to do instead with an environment of another interface, if it is one."""
    if isinstance(env, gymnasium.vector.VectorEnv):
        return "; set config.env.num_envs to step many"
    if not (hasattr(env, "reset") and hasattr(env, "step")):
        return ""
    return "; gymnasium.make('GymV21Environment-v0', env=...) converts it (pip install shimmy)"


def limit_and_repeat(env: gymnasium.Env, settings: EnvSettings) -> gymnasium.Env:
    """Wrap an environment that has neither in the time limit and the action repeat."""
    if settings.time_limit:
        env = TimeLimit(env, settings.time_limit)
    return ActionRepeat(env, repeat=settings.action_repeat)


def refuse_variant(task: str, variant: str) -> None:
    """Raise a UsageError if a task that has no variants was given one."""
    if variant:
        raise UsageError(f"the task {task!r} has no variants; {task}:{variant} was given")
