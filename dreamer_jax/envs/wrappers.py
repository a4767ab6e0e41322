"""Wrappers that give every gymnasium environment the same interface.

Observations are dictionaries of images, grids and vectors, and actions are indices or vectors in
[-1, 1]. What has another shape or type than the spaces declare, or is not finite, is an error.
`observations` and `actions` have the rules.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import gymnasium
import numpy as np

from dreamer_jax.envs.actions import adapt_action
from dreamer_jax.envs.observations import Reader
from dreamer_jax.errors import UsageError

T = TypeVar("T")

# What `reset` and `step` of a gymnasium environment return.
Reset = tuple[Any, dict[str, Any]]
Step = tuple[Any, float, bool, bool, dict[str, Any]]
LARGEST_INT = 2**31 - 1  # of C


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
            total += _finite(reward)
            if terminated or truncated:
                break
        return obs, total, terminated, truncated, info


def adapt(
    env: gymnasium.Env,
    *,
    size: int,
    images: str | None = None,
    vectors: str | None = None,
    grids: str | None = None,
) -> gymnasium.Env:
    """Normalise an environment's spaces and check every step against them.

    Observations become a `spaces.Dict` of

    - images, uint8 [size, size, C], resized by area: a Box with two sides of 32 pixels or more, in
      uint8, or from 0 to 255, or a float from 0 to 1; its channels, at most 16, are absent, first
      or last, and a stack of frames may come first, which becomes channels. An observation that is
      a single image is named 'image'.
    - vectors, float32 [V]: any other Box flattened, Discrete as one-hot, and every other space
      that `gymnasium.spaces.flatten` turns into a fixed-length array. An observation that is a
      single vector is named 'vector'.

    `images`, `vectors` and `grids` are patterns of the names of entries to read otherwise; images
    then scale their declared bounds to 0 to 255. Grids, bool [H, W, C], are small boards that hold
    zeros and ones. Nested dictionaries are flattened to keys 'a/b', and so are
    tuples that contain an image, to 'a/0'; Text entries are left out. The wrapper's `readings`
    has a line for every entry that says how it was read and why. Images that need no conversion
    may share memory with the environment.

    Actions become an index from 0 (Discrete), one per factor (MultiDiscrete), or float32 [A] in
    [-1, 1] that is rescaled; see `adapt_action`. Whoever uses the environment need not check its
    results again.

    Raises:
        UsageError: a space is not supported.
        ValueError: in a step, an observation is not as declared or not finite, the reward is not
            finite, or the action is out of range.
    """
    return _Adapt(env, Reader(env.observation_space, size, images, vectors, grids))


class _Adapt(gymnasium.Wrapper):
    def __init__(self, env: gymnasium.Env, reader: Reader) -> None:
        super().__init__(env)
        self._observe = reader.read
        self.observation_space, self.readings = reader.space, reader.readings
        self.action_space, self._convert_action = adapt_action(env.action_space)

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
