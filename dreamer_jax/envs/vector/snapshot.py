"""The complete state of an environment as bytes, where an exact one is available.

If the base environment has exact methods `get_state()`, returning a picklable object, and
`set_state(state)`, it is saved through them, with its wrappers' attributes. Any other environment
is pickled as a whole, if `pickles_exactly` has established that this loses nothing.
"""

import contextlib
import copy
import logging
import pickle
from collections.abc import Callable
from typing import Any

import cloudpickle
import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec

log = logging.getLogger(__name__)


def has_state(env: gymnasium.Env) -> bool:
    """Return whether the base environment saves and restores its own state."""
    base = env.unwrapped
    return all(callable(getattr(base, name, None)) for name in ("get_state", "set_state"))


def snapshot(env: gymnasium.Env) -> bytes:
    """Return the state of an environment and its wrappers, for `restore`."""
    if not has_state(env):
        return cloudpickle.dumps(env)
    wrappers = [(type(wrapper).__name__, _attributes(wrapper)) for wrapper in _wrappers(env)]
    return cloudpickle.dumps((env.unwrapped.get_state(), wrappers))


def restore(env: gymnasium.Env, data: bytes) -> gymnasium.Env:
    """Return an environment in the saved state: `env`, if it restores its own state, or a new one.

    Args:
        env: an environment built in the same way as the saved one.
        data: what `snapshot` returned. It is unpickled: only restore what you have written.

    Raises:
        ValueError: the saved environment had other wrappers.
    """
    saved = pickle.loads(data)
    if not has_state(env):
        return saved
    state, saved_wrappers = saved
    wrappers = _wrappers(env)
    names = [name for name, _ in saved_wrappers]
    if names != [type(wrapper).__name__ for wrapper in wrappers]:
        raise ValueError(f"the saved environment was wrapped in {names}, this one is {env}")
    env.unwrapped.set_state(state)
    for wrapper, (_, attributes) in zip(wrappers, saved_wrappers, strict=True):
        vars(wrapper).update(attributes)
    return env


def pickles_exactly(make_env: Callable[[], gymnasium.Env], *, steps: int = 20) -> bool:
    """Return whether an unpickled copy continues exactly as the environment does.

    Many environments unpickle as new ones, built from their arguments, or not at all. Therefore an
    environment and a copy made in the middle of its episode are compared over `steps` steps and a
    reset, and discarded.
    """
    with contextlib.ExitStack() as closing:
        env = closing.enter_context(make_env())
        try:
            env.action_space.seed(0)
            env.reset()
            _advance(env, [env.action_space.sample() for _ in range(3)])
            twin = closing.enter_context(pickle.loads(cloudpickle.dumps(env)))
            actions = [env.action_space.sample() for _ in range(steps)]
            results = [(_advance(each, actions), each.reset()[0]) for each in (env, twin)]
            exact, reason = _same(*results), "the copy steps differently"
        except Exception as error:  # whatever an environment's own pickling raises
            exact, reason = False, f"{type(error).__name__}: {error}"
    if not exact:
        log.warning("%s cannot be saved exactly (%s)", env, reason)
    return exact


def _advance(env: gymnasium.Env, actions: list[Any]) -> list[Any]:
    """Step through the actions with a reset after each end, and return copies of the results."""
    seen: list[Any] = []
    for action in actions:
        obs, *rest, _ = env.step(action)
        seen.append(copy.deepcopy((obs, *rest)))  # environments may reuse their arrays
        if any(rest[1:]):
            seen.append(copy.deepcopy(env.reset()[0]))
    return seen


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return np.array_equal(a, b)


def _wrappers(env: gymnasium.Env) -> list[gymnasium.Wrapper]:
    return [env, *_wrappers(env.env)] if isinstance(env, gymnasium.Wrapper) else []


def _attributes(wrapper: gymnasium.Wrapper) -> dict[str, Any]:
    """Return the attributes that a step may change: no environments, spaces, functions, specs."""
    fixed = gymnasium.Env | spaces.Space | EnvSpec
    return {
        name: value
        for name, value in vars(wrapper).items()
        if name != "_saved_kwargs" and not isinstance(value, fixed) and not callable(value)
    }
