"""Conversion of the agent's actions to those of an environment."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from dreamer_jax.errors import UsageError

TOLERANCE = 1e-6  # amount by which an action may exceed [-1, 1]
MAX_CHOICES = 1024  # of an integer in a Box, each of which the agent gives a probability
LARGEST = 1e9  # bounds beyond it mean that there are none

Convert = Callable[[Any], Any]


class _Leaf(NamedTuple):
    """A space without parts that an action consists of."""

    space: spaces.Space
    choices: np.ndarray | None  # int64 [F] of its factors; None: continuous


def adapt_action(space: spaces.Space) -> tuple[spaces.Space, Convert]:
    """Return the normalised action space, and the function from its actions to the environment's.

    - Discrete becomes Discrete from 0.
    - A float Box with finite bounds, or a Dict or Tuple of them, becomes a Box [A] in [-1, 1].
    - MultiDiscrete, MultiBinary and integer Box, and a Dict or Tuple of these and of Discrete,
      become MultiDiscrete [F] from 0: factors, in the order of the spaces.

    Raises:
        UsageError: the space is not supported; the message says what to do instead.
    """
    leaves = [_leaf(part) for part in _flatten(space)]
    if not leaves:
        raise UsageError(f"action space {space} is not supported: it has no actions.")
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(int(space.n)), _IndexOf(space).convert
    continuous = [leaf.choices is None for leaf in leaves]
    if all(continuous):
        size = sum(leaf.space.low.size for leaf in leaves)
        return spaces.Box(-1.0, 1.0, (size,), np.float32), _Vector(space, leaves).convert
    if any(continuous):
        raise UsageError(
            f"action space {space} is not supported: it mixes discrete and continuous actions. "
            "Wrap the environment in one whose actions are all of one kind: divide the continuous "
            "ones into steps (a MultiDiscrete), or read the discrete ones off a Box."
        )
    choices = np.concatenate([leaf.choices for leaf in leaves])
    return spaces.MultiDiscrete(choices), _Factors(space, leaves).convert


def _flatten(space: spaces.Space) -> Iterator[spaces.Space]:
    if isinstance(space, spaces.Dict):
        for entry in space.values():
            yield from _flatten(entry)
    elif isinstance(space, spaces.Tuple):
        for entry in space.spaces:
            yield from _flatten(entry)
    else:
        yield space


def _assemble(space: spaces.Space, values: Iterator[Any]) -> Any:
    """Build an action of `space` from the values of its leaves, in the order of `_flatten`."""
    if isinstance(space, spaces.Dict):
        return {key: _assemble(entry, values) for key, entry in space.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(_assemble(entry, values) for entry in space.spaces)
    return next(values)


def _leaf(space: spaces.Space) -> _Leaf:
    if isinstance(space, spaces.Discrete):
        return _Leaf(space, np.array([space.n], np.int64))
    if isinstance(space, spaces.MultiDiscrete):
        choices = np.asarray(space.nvec, np.int64).reshape(-1)
    elif isinstance(space, spaces.MultiBinary):
        choices = np.full(int(np.prod(space.shape)), 2, np.int64)
    elif isinstance(space, spaces.Box) and space.dtype.kind in "iub":
        span = space.high.astype(np.float64) - space.low.astype(np.float64) + 1
        if (span > MAX_CHOICES).any():
            raise UsageError(
                f"action space {space} is not supported: an integer has {span.max():.0f} values, "
                f"and at most {MAX_CHOICES} can be chosen from. Wrap the environment in one with "
                "a float Box, and round its actions."
            )
        choices = span.astype(np.int64).reshape(-1)
    elif isinstance(space, spaces.Box):
        _check_bounds(space)
        choices = None
    else:
        raise UsageError(
            f"action space {space} is not supported: it must be Discrete, MultiDiscrete, "
            "MultiBinary, Box, or a Dict or Tuple of these. Wrap the environment in one that has "
            "such a space."
        )
    if not np.prod(space.shape):
        raise UsageError(f"action space {space} is not supported: it has no actions.")
    return _Leaf(space, choices)


def _check_bounds(space: spaces.Box) -> None:
    bounds = np.abs([space.low.astype(np.float64), space.high.astype(np.float64)])
    if not (bounds <= LARGEST).all():
        raise UsageError(
            f"action space {space} is not supported: its bounds must be finite (at most "
            f"{LARGEST:g}), since the agent's actions in [-1, 1] are rescaled to them. Wrap the "
            "environment in gymnasium.wrappers.TransformAction with a Box of the values that make "
            "a difference, such as [-1, 1]."
        )


class _IndexOf(NamedTuple):
    """The conversion of an index to an action of a Discrete space."""

    space: spaces.Discrete

    def convert(self, action: Any) -> int:
        index, count = np.asarray(action), int(self.space.n)
        if index.size != 1 or index.dtype.kind not in "iu" or not 0 <= index.item() < count:
            raise ValueError(f"action {action} is not an integer from 0 to {count - 1}")
        return index.item() + int(self.space.start)


class _Factors(NamedTuple):
    """The conversion of indices [F] to an action of a space of factors."""

    space: spaces.Space
    leaves: list[_Leaf]

    def convert(self, action: Any) -> Any:
        index, choices = np.asarray(action), np.concatenate([x.choices for x in self.leaves])
        right = index.shape == choices.shape and index.dtype.kind in "iu"
        if not right or not ((index >= 0) & (index < choices)).all():
            raise ValueError(
                f"action {action} is not {len(choices)} integers from 0 below {choices}"
            )
        index = index.astype(np.int64)
        return _assemble(self.space, iter([*map(_choose, self.leaves, self._split(index))]))

    def _split(self, index: np.ndarray) -> list[np.ndarray]:
        return np.split(index, np.cumsum([len(leaf.choices) for leaf in self.leaves])[:-1])


def _choose(leaf: _Leaf, index: np.ndarray) -> Any:
    space = leaf.space
    if isinstance(space, spaces.Discrete):
        return int(space.start) + int(index[0])
    index = index.reshape(space.shape)
    if isinstance(space, spaces.MultiDiscrete):
        index = index + space.start
    elif isinstance(space, spaces.Box):
        index = index + space.low.astype(np.int64)
    return index.astype(space.dtype)


class _Vector(NamedTuple):
    """The conversion of a vector in [-1, 1] to an action within bounds."""

    space: spaces.Space
    leaves: list[_Leaf]

    def convert(self, action: Any) -> Any:
        action, sizes = np.asarray(action, np.float64), [x.space.low.size for x in self.leaves]
        size = sum(sizes)
        if action.shape != (size,) or not (np.abs(action) <= 1.0 + TOLERANCE).all():
            raise ValueError(f"action {action} is not a vector of {size} numbers in [-1, 1]")
        parts = np.split(action, np.cumsum(sizes)[:-1])
        return _assemble(self.space, iter([*map(_rescale, self.leaves, parts)]))


def _rescale(leaf: _Leaf, action: np.ndarray) -> np.ndarray:
    space = leaf.space
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    scaled = low + (action.reshape(low.shape) + 1.0) / 2.0 * (high - low)
    return np.clip(scaled, low, high).astype(space.dtype)
