"""Replay of environment steps: a ring per member and environment whose checkpoint is a few cursors.

Record t holds observation t and the action and reward that led to it:

    record      0          1          2       ...   n           n+1
    observation o0         o1         o2            on          o0'
    action      0          a0         a1            a(n-1)      0
    reward      0          r(o1)      r(o2)         r(on)       0
    flags       is_first                            is_last     is_first

The last `capacity // num_envs` records of each stream are live. Its ring has `slack` more slots,
and record t lies in slot t % slots, so the next `slack` records overwrite no record that is live
now: a checkpoint can be restored, and a batch copied in the background, while writing continues.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from dreamer_jax.errors import lookup, suggest
from dreamer_jax.replay.layout import Spec, make_layout
from dreamer_jax.replay.ring import live_intact, oldest_live, open_rings
from dreamer_jax.replay.samplers import (
    SAMPLERS,
    Episodes,
    EpisodeSampler,
    Indices,
    Streams,
    WindowSampler,
    draw_indices,
    find_episodes,
)
from dreamer_jax.seeding import replay_generator


class Replay:
    """The steps of M members in E environments each, and the random streams that sample them."""

    def __init__(
        self,
        *,
        spec: Spec,
        seeds: Sequence[int],
        numbers: Sequence[int] | None = None,
        num_envs: int,
        capacity: int,
        slack: int,
        batch: int,
        length: int,
        sampling: str,
        directory: str | Path | None,
        copy: str | Path | None = None,
    ):
        """Allocate lazily, or open the rings in `directory` (then call `restore`).

        Args:
            spec: shape and dtype of one record, per key; has `reward` and bool `is_first`,
                `is_last`, `is_terminal`, all scalars, and any other entries to keep.
            seeds: [M], not negative; may repeat.
            numbers: [M], the names of the members' directories, among others in `directory`; None
                if there are no others.
            num_envs: E.
            capacity: agent steps kept per member; each stream keeps capacity // E.
            slack: steps per stream that may be added between two calls of `pin`.
            batch, length: a draw gives each member B sequences of L records.
            sampling: a key of `SAMPLERS`: `episodes` (uniform over complete episodes of at least L
                records, ends favoured), `episodes_uniform` (the same, all starts in an episode
                equally likely) or `time` (uniform over all live windows of L records).
            directory: for the memory-mapped files; None keeps everything in memory.
            copy: directory of a copy of them, which `flush` brings up to date.

        Raises:
            ValueError: an argument is out of range, or the files are damaged or of another layout.
            OSError: the disk has less space than the full replay needs.
        """
        if batch < 1:
            raise ValueError(f"replay batch must be at least 1, got {batch}")
        if not seeds:
            raise ValueError("replay needs at least 1 member, got 0")
        self.num_members = len(seeds)
        self.slack = slack  # records per stream that may be added between two calls of `pin`
        self._generators = [replay_generator(seed) for seed in seeds]
        self._sampler = lookup(SAMPLERS, sampling, "replay sampling")
        self._layout = make_layout(
            spec=spec, num_envs=num_envs, capacity=capacity, slack=slack, length=length
        )
        self._batch, self._length = int(batch), int(length)
        self._shape = (self.num_members, num_envs)
        self._written = np.zeros(self._shape, np.int64)
        self._pinned = np.zeros(self._shape, np.int64)
        # First record of the stream's episode in progress, -1 between episodes.
        self._episode_start = np.full(self._shape, -1, np.int64)
        self._rings = open_rings(self._layout, self.num_members, directory, numbers)
        self._copies = (
            [] if copy is None else open_rings(self._layout, self.num_members, copy, numbers)
        )
        self._copied = np.zeros(self._shape, np.int64)  # records in the copy
        # After the rings, which check that the disk has room for as many records.
        self._episodes = Episodes(self._shape, self._layout.capacity, self._length)
        self.never_drawn = 0  # episodes since the start that are too short for the sampler
        self._closed = False
        self._step_fits = False  # the first step was checked; shapes and dtypes do not change

    @property
    def written(self) -> np.ndarray:
        """Records ever added per stream, [M, E] int64."""
        return self._written.copy()

    @property
    def sampleable(self) -> np.ndarray:
        """The members with at least one sequence to draw, [M] bool."""
        return self._sampler.num_starts(self._streams()).sum(axis=1) > 0

    @property
    def remaining_slack(self) -> int:
        """Records that every stream can still take before the next call of `pin`."""
        return int((self._pinned + self.slack - self._written).min())

    def add(self, step: Mapping[str, np.ndarray], mask: np.ndarray) -> None:
        """Append one record to each masked stream; change nothing if it raises.

        Args:
            step: an array [M, E, *shape] for exactly the keys of the spec. Keys, shapes and dtypes
                are checked the first time, and must stay the same.
            mask: the streams to append to, [M, E] bool; entries of others are ignored.

        Raises:
            ValueError: `step` does not fit the spec, or `is_first` is not set exactly at a stream's
                start and after `is_last` or `close_open`.
            RuntimeError: the slack is used up: a live record of the pinned checkpoint would be
                overwritten.
            OSError: the disk is full.
        """
        self._check_open()
        if not self._step_fits:
            self._check_step(step, mask)
            self._step_fits = True
        streams = member, env = np.nonzero(mask)
        is_first, is_last = step["is_first"][streams], step["is_last"][streams]
        self._check_order(streams, is_first)
        record = self._written[streams]
        if np.any(record - self._pinned[streams] >= self.slack):
            raise RuntimeError(
                f"replay slack of {self.slack} steps per environment is used up: save a checkpoint "
                "and call pin, or make the slack larger"
            )
        needed = int(record.max(initial=-1)) + 1
        for ring in self._rings:
            ring.preallocate(needed)
        for m, e, t in zip(member.tolist(), env.tolist(), record.tolist(), strict=True):
            self._rings[m].write(e, t, step, (m, e))
        self._written[streams] += 1
        self._episode_start[streams] = np.where(is_first, record, self._episode_start[streams])
        if is_last.any():
            self._complete(member[is_last], env[is_last])

    def close_open(self, mask: np.ndarray) -> None:
        """End the episodes in progress in the masked streams [M, E], as truncated.

        Their last record gets `is_last`. This changes a live record: no gather may be running.
        """
        member, env = np.nonzero(np.asarray(mask, bool) & (self._episode_start >= 0))
        for m, e in zip(member.tolist(), env.tolist(), strict=True):
            self._rings[m].set_last(e, self._written[m, e] - 1, True)
        self._complete(member, env)

    def draw(self) -> Indices:
        """Draw B sequences for each of the `sampleable` members from its own random stream."""
        return draw_indices(self._sampler, self._streams(), self._generators, self._batch)

    def draw_windows(
        self, generators: Sequence[np.random.Generator], batch: int, length: int
    ) -> Indices:
        """Draw B windows of `length` live records for each member, from a generator of its own.

        They are not for training, and change no draw that is: all windows are equally likely,
        across episode boundaries, whatever the replay's sampling.
        """
        streams = replace(self._streams(), length=length)
        return draw_indices(WindowSampler(), streams, generators, batch)

    def gather(
        self, indices: Indices, length: int | None = None, keys: Sequence[str] | None = None
    ) -> dict[str, np.ndarray]:
        """Return the drawn sequences, each with `is_first` set at its beginning.

        May run in another thread while `add` is called: up to `slack` records per stream added
        since the draw go to slots that were not live then.

        Args:
            length: T, of the sequences; None for the replay's own L.
            keys: some of the spec's, with `reward` and `is_first`; None for all.

        Returns:
            A new array [M, B, T, *shape] per key. Members without a sequence get zeros, and
            rewards that are not a number, so that no update is made of them.

        Raises:
            RuntimeError: more was added since the draw, and records have been overwritten.
        """
        self._check_open()
        batch = {
            key: np.empty((*indices.start.shape, length or self._length, *shape), dtype)
            for key, (shape, dtype) in self._layout.entries.items()
            if keys is None or key in keys
        }
        for m, ring in enumerate(self._rings):
            if indices.empty[m]:
                for array in batch.values():
                    array[m] = 0
                batch["reward"][m] = np.nan
                continue
            out = {key: array[m] for key, array in batch.items()}
            ring.gather(indices.env[m], indices.start[m], out)
        batch["is_first"][:, :, 0] = True
        return batch

    def pin(self, records: Sequence[Mapping] | None = None) -> None:
        """Keep one checkpoint restorable: allow `slack` records per stream to be added after it.

        Args:
            records: the checkpoint's `state()`; None for the present.
        """
        self._pinned = self._written.copy() if records is None else self._cursors(records)[0]

    def state(self) -> list[dict]:
        """Return the cursors and random stream of every member as JSON data, for `restore`."""
        cursors = zip(self._written.tolist(), self._episode_start.tolist(), strict=True)
        return [
            {"written": written, "episode_start": start, "generator": rng.bit_generator.state}
            for (written, start), rng in zip(cursors, self._generators, strict=True)
        ]

    def restore(self, records: Sequence[Mapping]) -> None:
        """Return to a `state` of this replay and pin it.

        Records added after it are forgotten. Subsequent draws repeat exactly.

        Raises:
            ValueError: the state has another number of members or environments, or records that
                were live in it have been overwritten, as they may be after `slack` more per stream;
                nothing has changed then.
        """
        written, episode_start = self._cursors(records)
        if not all(
            live_intact(self._layout, ring.high_water, row)
            for ring, row in zip(self._rings, written, strict=True)
        ):
            raise ValueError(
                "the replay has moved on too far since the checkpoint: records of that moment are "
                "overwritten or lost"
            )
        self._written, self._pinned, self._episode_start = written, written.copy(), episode_start
        for m, copy in enumerate(self._copies):
            self._copied[m] = np.minimum(copy.high_water, written[m])
        for rng, record in zip(self._generators, records, strict=True):
            rng.bit_generator.state = record["generator"]
        self._episodes.clear()
        for m, e in np.argwhere(written).tolist():
            ring, stop = self._rings[m], written[m, e]
            # close_open may have changed the last record after the state was taken.
            ring.set_last(e, stop - 1, episode_start[m, e] < 0)
            live = np.arange(oldest_live(self._layout, stop), stop)
            is_first, is_last = (ring.read(key, e, live) for key in ("is_first", "is_last"))
            for episode in zip(*find_episodes(live, is_first, is_last), strict=True):
                self._episodes.add(m, e, *episode)

    def clear(self) -> None:
        """Start empty, whatever the files hold from before."""
        for ring in (*self._rings, *self._copies):
            ring.clear()

    def restart(self, records: Sequence[Mapping]) -> None:
        """Return to the random streams of a `state`, but with no records."""
        self._cursors(records)
        self.clear()
        for rng, record in zip(self._generators, records, strict=True):
            rng.bit_generator.state = record["generator"]

    def flush(self) -> None:
        """Write the files to disk, and their copy; may run in another thread."""
        for m, copy in enumerate(self._copies):
            for e in range(self._layout.envs):
                stop = int(self._written[m, e])
                # The end of the last episode may have changed after it was copied.
                copy.copy(self._rings[m], e, max(0, self._copied[m, e] - 1), stop)
                self._copied[m, e] = stop
        for ring in (*self._rings, *self._copies):
            ring.flush()

    def close(self) -> None:
        """Flush and release the arrays; the replay cannot be used afterwards."""
        self._closed = True
        for ring in (*self._rings, *self._copies):
            ring.close()

    def _streams(self) -> Streams:
        oldest = oldest_live(self._layout, self._written)
        self._episodes.evict(oldest)
        return Streams(oldest, self._written, self._episodes, self._episode_start, self._length)

    def _complete(self, member: np.ndarray, env: np.ndarray) -> None:
        """Record that the episodes in progress in streams [K] are complete."""
        episodes = self._streams().episodes
        for m, e in zip(member.tolist(), env.tolist(), strict=True):
            long = episodes.add(m, e, self._episode_start[m, e], self._written[m, e])
            self.never_drawn += isinstance(self._sampler, EpisodeSampler) and not long
        self._episode_start[member, env] = -1

    def _cursors(self, records: Sequence[Mapping]) -> tuple[np.ndarray, np.ndarray]:
        """Return `written` and `episode_start` of a state, [M, E] each."""
        written, start = (
            np.array([record[name] for record in records], np.int64)
            for name in ("written", "episode_start")
        )
        if written.shape != self._shape:
            raise ValueError(
                f"replay state is of members and environments {written.shape}, "
                f"expected {self._shape}"
            )
        return written, start

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the replay has been closed")

    def _check_step(self, step: Mapping[str, np.ndarray], mask: np.ndarray) -> None:
        """Raise ValueError unless every array of `step`, and `mask`, fits the layout."""
        entries = self._layout.entries
        for key in sorted(step.keys() ^ entries.keys()):
            if key in entries:
                raise ValueError(f"replay step lacks {key!r}, it has {sorted(step)}")
            raise ValueError(f"replay keeps {sorted(entries)}, not {key!r}.{suggest(key, entries)}")
        if mask.shape != self._shape:
            raise ValueError(f"replay mask has shape {mask.shape}, expected {self._shape}")
        for key, (record, dtype) in entries.items():
            value, shape = step[key], (*self._shape, *record)
            if value.shape != shape or not np.can_cast(value.dtype, dtype, "same_kind"):
                raise ValueError(
                    f"replay entry {key!r} is {value.dtype} {value.shape}, expected {dtype} {shape}"
                )

    def _check_order(self, streams: tuple[np.ndarray, np.ndarray], is_first: np.ndarray) -> None:
        """Raise ValueError if an episode begins inside another, or without `is_first`."""
        wrong = np.flatnonzero(is_first != (self._episode_start[streams] < 0))
        if wrong.size:
            member, env = (index[wrong[0]] for index in streams)
            problem = (
                "starts an episode inside another, call close_open first"
                if is_first[wrong[0]]
                else "continues without is_first although no episode is in progress"
            )
            raise ValueError(f"replay stream of member {member}, environment {env} {problem}")
