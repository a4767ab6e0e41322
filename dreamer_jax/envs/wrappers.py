"""Wrappers that give every gymnasium environment the same interface.

Observations are dictionaries of images and vectors, actions are indices or vectors in [-1, 1], and
everything that violates the declared spaces is an error.
"""

import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import cv2
import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.errors import UsageError

T = TypeVar("T")
log = logging.getLogger(__name__)

Observation = dict[str, np.ndarray]
# What `reset` and `step` of a gymnasium environment return.
Reset = tuple[Any, dict[str, Any]]
Step = tuple[Any, float, bool, bool, dict[str, Any]]
LARGEST_INT = 2**31 - 1  # of C
TOLERANCE = 1e-6  # amount by which an action may exceed [-1, 1]


class SeedFirstReset(gymnasium.Wrapper):
    """A wrapper that seeds the first `reset()` if the caller does not, and no later one."""

    def __init__(self, env: gymnasium.Env, *, seed: int) -> None:
        super().__init__(env)
        self._seed: int | None = seed

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        seed, self._seed = (self._seed if seed is None else seed), None
        result = with_seed(lambda value: self.env.reset(seed=value, options=options), seed)
        if not isinstance(result, tuple) or len(result) != 2:
            raise _old_interface(self.env, "reset", "(observation, info)", result)
        return result


def _old_interface(env: gymnasium.Env, method: str, expected: str, result: Any) -> UsageError:
    found = f"{len(result)} values" if isinstance(result, tuple) else f"a {type(result).__name__}"
    name = type(env.unwrapped).__name__
    return UsageError(
        f"{name}.{method}() returned {found}; allowed: {expected}, as gymnasium has it since 0.26"
    )


def with_seed(call: Callable[[int | None], T], seed: int | None) -> T:
    """Call a function with a seed of 32 bits, or with 31 bits of it if it takes no more.

    Many simulators keep seeds in a signed C int. Such a seed is only shortened where it is
    refused, so that no other environment gets another seed than it always had.
    """
    try:
        return call(seed)
    except UsageError:
        raise
    except (OverflowError, TypeError, ValueError):
        if seed is None or seed <= LARGEST_INT:
            raise
    return call(seed & LARGEST_INT)


class ActionRepeat(gymnasium.Wrapper):
    """A wrapper whose step is up to `repeat` steps with one action; their rewards are summed."""

    def __init__(self, env: gymnasium.Env, *, repeat: int) -> None:
        super().__init__(env)
        self._repeat = repeat

    def step(self, action: Any) -> Step:
        total = 0.0
        for _ in range(self._repeat):
            result = self.env.step(action)
            if not isinstance(result, tuple) or len(result) != 5:
                expected = "(observation, reward, terminated, truncated, info)"
                raise _old_interface(self.env, "step", expected, result)
            obs, reward, terminated, truncated, info = result
            total += reward
            if terminated or truncated:
                break
        return obs, total, terminated, truncated, info


def adapt(env: gymnasium.Env, *, size: int) -> gymnasium.Env:
    """Normalise an environment's spaces and check every step against them.

    Observations become a `spaces.Dict` of

    - images, uint8 [size, size, C], resized by area: any uint8 Box with 2 axes (C = 1), or with 3
      axes of which the last is 1, 3 or 4. An observation that is a single image is named 'image'.
    - vectors, float32 [V]: any other Box flattened, Discrete as one-hot, and every other space
      that `gymnasium.spaces.flatten` turns into a fixed-length array. An observation that is a
      single vector is named 'vector'.

    Nested dictionaries are flattened to keys 'a/b'; Text entries are left out, with a line in the
    log. Images that need no resizing may share memory with the environment. A Discrete action
    space begins at 0; a float Box with finite bounds becomes float32 [A] in [-1, 1] and actions are
    rescaled. Whoever uses the environment need not check its results again.

    Raises:
        ValueError: a space is not supported; or, in a step, an observation is not as declared or
            not finite, the reward is not finite, or the action is out of range.
    """
    return _Adapt(env, size)


class _Adapt(gymnasium.Wrapper):
    def __init__(self, env: gymnasium.Env, size: int) -> None:
        super().__init__(env)
        self._observe = _Observe(env.observation_space, size)
        self.observation_space = self._observe.space
        self.action_space, self._convert_action = _adapt_action(env.action_space)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        obs, info = self.env.reset(seed=seed, options=options)
        return self._observe(obs), info

    def step(self, action: Any) -> Step:
        action = self._convert_action(action)
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._observe(obs), _finite(reward), bool(terminated), bool(truncated), info


def _finite(reward: Any) -> float:
    value = np.asarray(reward)
    # Of the type in which it is recorded, in which larger numbers are infinite.
    with np.errstate(over="ignore"):
        is_number = value.size == 1 and value.dtype.kind in "biuf"
        if not is_number or not np.isfinite(value.astype(np.float32)).all():
            raise ValueError(
                f"the environment's reward must be a finite number, not {reward!r} (as float32)"
            )
    return float(value.item())


class _Leaf(NamedTuple):
    """An entry of the observation as the environment declares it."""

    key: str  # 'a/b', or 'image' or 'vector' if the observation is not a dictionary
    path: tuple[str, ...]  # ('a', 'b')
    space: spaces.Space
    is_image: bool


def _leaves(space: spaces.Space, path: tuple[str, ...] = ()) -> Iterator[_Leaf]:
    is_image = _is_image(space)
    key = "/".join(path) or ("image" if is_image else "vector")
    if isinstance(space, spaces.Dict):
        for name, entry in space.items():
            yield from _leaves(entry, (*path, name))
    elif isinstance(space, spaces.Text):
        log.info("observation %r is text and is left out", key)
    elif space.is_np_flattenable:
        yield _Leaf(key, path, space, is_image)
    else:
        raise ValueError(f"observation {key!r} has no fixed length: {space} is not supported")


def _is_image(space: spaces.Space) -> bool:
    if not isinstance(space, spaces.Box) or space.dtype != np.uint8:
        return False
    return len(space.shape) == 2 or (len(space.shape) == 3 and space.shape[-1] in (1, 3, 4))


class _Observe:
    """A function that checks and normalises an environment's observations."""

    def __init__(self, space: spaces.Space, size: int) -> None:
        self._source, self._size = space, size
        self._leaves = tuple(_leaves(space))
        self.space = spaces.Dict({leaf.key: _target(leaf, size) for leaf in self._leaves})
        if not len(self.space) == len(self._leaves) > 0:
            keys = [leaf.key for leaf in self._leaves]
            raise ValueError(f"the observation needs one or more distinct entries, not {keys}")

    def __call__(self, obs: Any) -> Observation:
        _check_keys(self._source, obs, ())
        result = {}
        for leaf in self._leaves:
            value = functools.reduce(lambda node, name: node[name], leaf.path, obs)
            if isinstance(leaf.space, spaces.Box):
                value = _check_box(leaf, value)
            elif not leaf.space.contains(value):
                raise ValueError(f"observation {leaf.key!r} is {value!r}, outside {leaf.space}")
            result[leaf.key] = self._resized(value) if leaf.is_image else _flat(leaf, value)
        return result

    def _resized(self, image: np.ndarray) -> np.ndarray:
        size = (self._size, self._size)
        if image.shape[:2] != size:
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return image.reshape(*size, -1)


def _target(leaf: _Leaf, size: int) -> spaces.Box:
    if leaf.is_image:
        return spaces.Box(0, 255, (size, size, (*leaf.space.shape, 1)[2]), np.uint8)
    return spaces.Box(-np.inf, np.inf, (spaces.flatdim(leaf.space),), np.float32)


def _check_keys(space: spaces.Space, obs: Any, path: tuple[str, ...]) -> None:
    if not isinstance(space, spaces.Dict):
        return
    label = f"observation {'/'.join(path)!r}" if path else "the observation"
    if not isinstance(obs, dict):
        raise ValueError(f"{label} is a {type(obs).__name__}, not a dictionary")
    if set(obs) != set(space):
        raise ValueError(f"{label} has the keys {sorted(obs)} but declares {sorted(space)}")
    for key, entry in space.items():
        _check_keys(entry, obs[key], (*path, key))


def _check_box(leaf: _Leaf, value: Any) -> np.ndarray:
    value, space = np.asarray(value), leaf.space
    if value.shape != space.shape:
        raise ValueError(
            f"observation {leaf.key!r} changed shape from {space.shape} to {value.shape}"
        )
    # Many environments declare float32 and return float64; images must be as declared.
    casting = "equiv" if leaf.is_image else "same_kind"
    if not np.can_cast(value.dtype, space.dtype, casting):
        raise ValueError(
            f"observation {leaf.key!r} changed dtype from {space.dtype} to {value.dtype}"
        )
    return value


def _flat(leaf: _Leaf, value: Any) -> np.ndarray:
    with np.errstate(over="ignore"):  # infinite values are reported below
        flat = np.asarray(spaces.flatten(leaf.space, value), np.float32).reshape(-1)
    if not np.isfinite(flat).all():
        raise ValueError(f"observation {leaf.key!r} is not finite: {flat}")
    return flat


def _adapt_action(space: spaces.Space) -> tuple[spaces.Space, Callable[[Any], Any]]:
    if isinstance(space, spaces.Discrete):
        count, start = int(space.n), int(space.start)
        return spaces.Discrete(count), functools.partial(_index, count=count, start=start)
    if not isinstance(space, spaces.Box) or not np.issubdtype(space.dtype, np.floating):
        raise ValueError(f"action space {space} is not supported: it must be Discrete or float Box")
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError(f"action space {space} is not supported: its bounds must be finite")
    target = spaces.Box(-1.0, 1.0, (low.size,), np.float32)
    return target, functools.partial(_rescale, low=low, high=high, dtype=space.dtype)


def _index(action: Any, *, count: int, start: int) -> int:
    index = np.asarray(action)
    if index.size != 1 or index.dtype.kind not in "iu" or not 0 <= index.item() < count:
        raise ValueError(f"action {action} is not an integer from 0 to {count - 1}")
    return index.item() + start


def _rescale(action: Any, *, low: np.ndarray, high: np.ndarray, dtype: np.dtype) -> np.ndarray:
    action = np.asarray(action, np.float64)
    if action.shape != (low.size,) or not (np.abs(action) <= 1.0 + TOLERANCE).all():
        raise ValueError(f"action {action} is not a vector of {low.size} numbers in [-1, 1]")
    scaled = low + (action.reshape(low.shape) + 1.0) / 2.0 * (high - low)
    return np.clip(scaled, low, high).astype(dtype)
