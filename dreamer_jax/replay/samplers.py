"""Where the replay's training sequences may start, and how members draw them.

Record numbers are absolute: a stream's record t is number t for the whole run, in whichever slot.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from dreamer_jax.errors import lookup


@dataclasses.dataclass(frozen=True)
class Indices:
    """The sequences of a batch, each by its environment and its first record."""

    env: np.ndarray  # [M, B] int64, in [0, E)
    start: np.ndarray  # [M, B] int64, absolute record number


class Sampler(Protocol):
    """Knows the choices of each stream; all are told of live ranges [oldest, written)."""

    def advance(self, oldest: np.ndarray, written: np.ndarray) -> None:
        """Takes the new live ranges, [M, E] each, after at most one more record per stream."""

    def complete(
        self, member: np.ndarray, env: np.ndarray, start: np.ndarray, stop: np.ndarray
    ) -> None:
        """Takes episodes [start, stop) that just ended, at most one per stream; arrays of [K]."""

    def rebuild(self, member: int, env: int, start: np.ndarray, stop: np.ndarray) -> None:
        """Replaces one stream's episodes by these, which are complete, live and in time order."""

    def choices(self) -> np.ndarray:
        """The number of equally likely choices per stream, [M, E] int64."""

    def locate(
        self, rng: np.random.Generator, member: int, env: np.ndarray, choice: np.ndarray
    ) -> np.ndarray:
        """The first record [B] of a sequence for each choice [B] in its stream `env` [B]."""


class WindowSampler:
    """Every window of `length` live records is equally likely, across episode boundaries."""

    def __init__(self, *, num_members: int, num_envs: int, capacity: int, length: int):
        del capacity
        self._length = length
        self._oldest = np.zeros((num_members, num_envs), np.int64)
        self._written = np.zeros((num_members, num_envs), np.int64)

    def advance(self, oldest: np.ndarray, written: np.ndarray) -> None:
        self._oldest, self._written = oldest, written.copy()

    def complete(self, member, env, start, stop) -> None:
        """Episodes play no part."""

    def rebuild(self, member, env, start, stop) -> None:
        """Episodes play no part."""

    def choices(self) -> np.ndarray:
        return np.maximum(0, self._written - self._oldest - self._length + 1)

    def locate(self, rng, member, env, choice) -> np.ndarray:
        return self._oldest[member, env] + choice


# (random stream, records of each episode [B], records of a sequence) -> offsets of starts [B]
OffsetFn = Callable[[np.random.Generator, np.ndarray, int], np.ndarray]


def uniform_offsets(rng: np.random.Generator, total: np.ndarray, length: int) -> np.ndarray:
    """Every start is equally likely, as on continuous control."""
    return rng.integers(0, total - length + 1)


def offsets_near_ends(rng: np.random.Generator, total: np.ndarray, length: int) -> np.ndarray:
    """min(u, total - length) with u uniform on [0, total], so that an episode's end is as likely
    as in the original's `prioritize_ends`, which is for Atari (Hafner et al. 2021, released code).
    """
    return np.minimum(rng.integers(0, total + 1), total - length)


class EpisodeSampler:
    """Complete episodes of at least `length` records are equally likely, then a start within.

    Episodes are kept per stream in time order in a ring of capacity // length entries, which
    always suffices: those fully live are disjoint, and each takes at least `length` records.
    """

    def __init__(
        self, offsets: OffsetFn, *, num_members: int, num_envs: int, capacity: int, length: int
    ):
        self._offsets = offsets
        self._length = length
        self._size = capacity // length
        shape = (num_members, num_envs)
        self._oldest = np.zeros(shape, np.int64)
        self._head = np.zeros(shape, np.int64)
        self._count = np.zeros(shape, np.int64)
        self._start = np.zeros((*shape, self._size), np.int64)
        self._stop = np.zeros((*shape, self._size), np.int64)

    def advance(self, oldest: np.ndarray, written: np.ndarray) -> None:
        self._oldest = oldest
        first = np.take_along_axis(self._start, self._head[..., None], axis=-1)[..., 0]
        # One record more moves `oldest` by one, and starts are distinct: at most one falls out.
        evicted = (self._count > 0) & (first < oldest)
        self._head = (self._head + evicted) % self._size
        self._count = self._count - evicted

    def complete(self, member, env, start, stop) -> None:
        fits = (start >= self._oldest[member, env]) & (stop - start >= self._length)
        member, env, start, stop = member[fits], env[fits], start[fits], stop[fits]
        entry = (self._head[member, env] + self._count[member, env]) % self._size
        self._start[member, env, entry] = start
        self._stop[member, env, entry] = stop
        self._count[member, env] += 1

    def rebuild(self, member, env, start, stop) -> None:
        long = stop - start >= self._length
        count = np.count_nonzero(long)
        self._head[member, env] = 0
        self._count[member, env] = count
        self._start[member, env, :count] = start[long]
        self._stop[member, env, :count] = stop[long]

    def choices(self) -> np.ndarray:
        return self._count.copy()

    def locate(self, rng, member, env, choice) -> np.ndarray:
        entry = (self._head[member, env] + choice) % self._size
        start, stop = self._start[member, env, entry], self._stop[member, env, entry]
        return start + self._offsets(rng, stop - start, self._length)


SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "episodes": functools.partial(EpisodeSampler, offsets_near_ends),
    "episodes_uniform": functools.partial(EpisodeSampler, uniform_offsets),
    "time": WindowSampler,
}


def make_sampler(
    name: str, *, num_members: int, num_envs: int, capacity: int, length: int
) -> Sampler:
    """Builds the sampler called `name`; `capacity` is per stream. ValueError if it is unknown."""
    make = lookup(SAMPLERS, name, "replay sampling")
    return make(num_members=num_members, num_envs=num_envs, capacity=capacity, length=length)


def draw_indices(
    sampler: Sampler, generators: Sequence[np.random.Generator], batch: int
) -> Indices:
    """Draws `batch` sequences per member, each uniformly over all choices of its streams.

    Args:
        sampler: must have a choice for every member.
        generators: the members' random streams, [M].
        batch: B.

    Returns:
        Indices of [M, B].
    """
    envs, starts = [], []
    for member, (rng, choices) in enumerate(zip(generators, sampler.choices(), strict=True)):
        bounds = np.cumsum(choices)
        choice = rng.integers(0, bounds[-1], size=batch)
        env = np.searchsorted(bounds, choice, side="right")
        envs.append(env)
        starts.append(sampler.locate(rng, member, env, choice - (bounds - choices)[env]))
    return Indices(env=np.stack(envs), start=np.stack(starts))


def find_episodes(
    records: np.ndarray, is_first: np.ndarray, is_last: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the episodes whose first and last record are both in a stretch of one stream.

    Args:
        records: consecutive record numbers, [K] int64.
        is_first: marks of these records, [K] bool.
        is_last: marks of these records, [K] bool.

    Returns:
        Their first records, and the records after their last ones, in time order.
    """
    firsts, lasts = records[is_first], records[is_last]
    begun = np.searchsorted(firsts, lasts, side="right")
    whole = begun > 0
    return firsts[begun[whole] - 1], lasts[whole] + 1
