"""The choice of training sequences: where they may start, and how members draw them.

Record numbers are absolute: a stream's record t has number t for the whole run, in whichever slot.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

NOTHING = -1  # in place of a record number


@dataclass(frozen=True)
class Indices:
    """The sequences of a batch, each given by its environment and its first record."""

    env: np.ndarray  # [M, B] int64, in [0, E)
    start: np.ndarray  # [M, B] int64, absolute record number; NOTHING for a member without any

    @property
    def empty(self) -> np.ndarray:
        """The members that had no sequence to draw, [M] bool."""
        return (self.start == NOTHING).all(axis=1)


class Episodes:
    """The complete live episodes of every stream that have at least `length` records.

    They lie in time order in a ring of capacity // length places per stream, which is always
    enough: live episodes are disjoint, and each takes at least `length` records.
    """

    def __init__(self, shape: tuple[int, int], capacity: int, length: int):
        """Start without episodes for streams [M, E] of `capacity` live records."""
        self._length = length
        self._size = capacity // length
        self.count = np.zeros(shape, np.int64)  # of episodes per stream
        self._head = np.zeros(shape, np.int64)
        self._start = np.zeros((*shape, self._size), np.int64)
        self._stop = np.zeros((*shape, self._size), np.int64)

    def evict(self, oldest: np.ndarray) -> None:
        """Remove the episodes with records before `oldest` [M, E], the first live ones."""
        while True:
            first = np.take_along_axis(self._start, self._head[..., None], axis=-1)[..., 0]
            evicted = (self.count > 0) & (first < oldest)
            if not evicted.any():
                return
            self._head = (self._head + evicted) % self._size
            self.count = self.count - evicted

    def add(self, member: int, env: int, start: int, stop: int) -> bool:
        """Add the episode [start, stop) as the newest of its stream; call `evict` before.

        Returns:
            False if it is too short.
        """
        if stop - start < self._length:
            return False
        place = (self._head[member, env] + self.count[member, env]) % self._size
        self._start[member, env, place] = start
        self._stop[member, env, place] = stop
        self.count[member, env] += 1
        return True

    def get(self, member: int, env: np.ndarray, number: np.ndarray) -> tuple[np.ndarray, ...]:
        """Return start and stop of episodes, [B] each; number 0 is the oldest of its stream."""
        place = (self._head[member, env] + number) % self._size
        return self._start[member, env, place], self._stop[member, env, place]

    def clear(self) -> None:
        """Remove all episodes."""
        self.count[:] = 0


@dataclass(frozen=True)
class Streams:
    """The live records of all streams, [oldest, written), and the complete episodes in them."""

    oldest: np.ndarray  # [M, E] int64
    written: np.ndarray  # [M, E] int64
    episodes: Episodes
    open: np.ndarray  # [M, E] int64, first record of the episode in progress, or -1
    length: int  # records of a sequence


class WindowSampler:
    """All windows of live records are equally likely, across episode boundaries."""

    def num_starts(self, streams: Streams) -> np.ndarray:
        """Return the number of equally likely choices per stream, [M, E] int64."""
        return np.maximum(0, streams.written - streams.oldest - streams.length + 1)

    def start_of(
        self,
        rng: np.random.Generator,
        streams: Streams,
        member: int,
        env: np.ndarray,
        choice: np.ndarray,
    ) -> np.ndarray:
        """Return the first record [B] of a sequence for each choice [B] in a stream `env` [B]."""
        return streams.oldest[member, env] + choice


def uniform_offsets(rng: np.random.Generator, total: np.ndarray, length: int) -> np.ndarray:
    """Draw every start with the same probability, as for continuous control."""
    return rng.integers(0, total - length + 1)


def offsets_near_ends(rng: np.random.Generator, total: np.ndarray, length: int) -> np.ndarray:
    """Draw min(u, total - length) with u uniform on [0, total], which favours episode ends.

    This is `prioritize_ends` of the original, used for Atari (Hafner et al. 2021, released code).
    """
    return np.minimum(rng.integers(0, total + 1), total - length)


@dataclass(frozen=True)
class EpisodeSampler:
    """All complete episodes are equally likely; `offsets` draws the start within one.

    A member that has none draws from the live part of its episodes in progress, so that an episode
    longer than the replay does not stop it.
    """

    # (random stream, records of each episode [B], records of a sequence) -> offsets of starts [B]
    offsets: Callable[[np.random.Generator, np.ndarray, int], np.ndarray]

    def num_starts(self, streams: Streams) -> np.ndarray:
        complete = streams.episodes.count
        begun = np.maximum(streams.open, streams.oldest)
        is_long = (streams.open >= 0) & (streams.written - begun >= streams.length)
        return np.where(complete.any(axis=1, keepdims=True), complete, is_long)

    def start_of(self, rng, streams, member, env, choice) -> np.ndarray:
        if streams.episodes.count[member].any():
            start, stop = streams.episodes.get(member, env, choice)
        else:
            start = np.maximum(streams.open, streams.oldest)[member, env]
            stop = streams.written[member, env]
        return start + self.offsets(rng, stop - start, streams.length)


Sampler = WindowSampler | EpisodeSampler  # or another class with these two methods

# The choices of `config.replay.sampling`; add a sampler here to make it one.
SAMPLERS: dict[str, Sampler] = {
    "episodes": EpisodeSampler(offsets_near_ends),
    "episodes_uniform": EpisodeSampler(uniform_offsets),
    "time": WindowSampler(),
}


def draw_indices(
    sampler: Sampler, streams: Streams, generators: Sequence[np.random.Generator], batch: int
) -> Indices:
    """Draw `batch` sequences per member, each uniformly over all choices of its streams.

    Every member draws from its own generator; one without a choice does not, and gets NOTHING.
    """
    envs, starts = [], []
    num_starts = sampler.num_starts(streams)
    for member, (rng, choices) in enumerate(zip(generators, num_starts, strict=True)):
        bounds = np.cumsum(choices)
        if bounds[-1] == 0:
            envs.append(np.zeros(batch, np.int64))
            starts.append(np.full(batch, NOTHING))
            continue
        choice = rng.integers(0, bounds[-1], size=batch)
        env = np.searchsorted(bounds, choice, side="right")
        choice -= (bounds - choices)[env]
        envs.append(env)
        starts.append(sampler.start_of(rng, streams, member, env, choice))
    return Indices(env=np.stack(envs), start=np.stack(starts))


def find_episodes(
    records: np.ndarray, is_first: np.ndarray, is_last: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Find the episodes that lie completely in consecutive records of one stream.

    Args:
        records: record numbers, [K].
        is_first, is_last: flags of these records, [K] bool.

    Returns:
        The first record of each episode, and the record after its last one, in time order.
    """
    firsts, lasts = records[is_first], records[is_last]
    begun = np.searchsorted(firsts, lasts, side="right")
    complete = begun > 0
    return firsts[begun[complete] - 1], lasts[complete] + 1
