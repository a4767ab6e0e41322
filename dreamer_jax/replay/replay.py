"""Replay of environment steps: a ring per member and environment whose checkpoint is a few cursors.

Record t holds observation t and the action and reward that led to it:

    record      0          1          2       ...   n           n+1
    observation o0         o1         o2            on          o0'
    action      0          a0         a1            a(n-1)      0
    reward      0          r(o1)      r(o2)         r(on)       0
    flags       is_first                            is_last     is_first

Of each stream the last `capacity // num_envs` records are live. Its ring has `slack` slots more,
and record t lies in slot t % slots, so the next `slack` records overwrite no record that is live
now: a checkpoint can be restored, and a batch copied in the background, although writing went on.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from dreamer_jax.replay import layout as replay_storage
from dreamer_jax.replay.ring import Rings
from dreamer_jax.replay.samplers import (
    Indices,
    draw_indices,
    find_episodes,
    make_sampler,
)
from dreamer_jax.seeding import replay_generator


class Replay:
    """The steps of M members in E environments each, and the random streams that sample them."""

    def __init__(
        self,
        *,
        spec: replay_storage.Spec,
        seeds: Sequence[int],
        num_envs: int,
        capacity: int,
        slack: int,
        batch: int,
        length: int,
        sampling: str,
        directory: str | Path | None,
    ):
        """Allocates lazily, or opens the arrays in `directory` (then call `restore`).

        Args:
            spec: shape and dtype of one record, per key; has `reward` and bool `is_first`,
                `is_last`, `is_terminal`, all scalars, and whatever else is to be kept.
            seeds: one per member, not negative; may repeat.
            num_envs: E, environments per member.
            capacity: agent steps kept per member; each stream keeps capacity // E.
            slack: steps per stream that may be added between two `mark_checkpoint` calls.
            batch: B, sequences per draw and member.
            length: L, records per sequence.
            sampling: `episodes` (uniform over complete episodes of at least L records, ends
                favoured), `episodes_uniform` (the same, all starts in an episode equally likely)
                or `time` (uniform over all live windows of L records).
            directory: for the memory-mapped files; None keeps everything in memory.

        Raises:
            ValueError: an argument is out of range, or `directory` holds another layout.
            OSError: the disk has less space than the full replay needs.
        """
        if batch < 1:
            raise ValueError(f"replay batch must be at least 1, got {batch}")
        self._generators = [replay_generator(seed) for seed in seeds]
        self._layout = layout = replay_storage.make_layout(
            spec=spec,
            num_members=len(seeds),
            num_envs=num_envs,
            capacity=capacity,
            slack=slack,
            length=length,
        )
        self._batch, self._length = int(batch), int(length)
        self._capacity = layout["stream_capacity"]
        self._sampler = make_sampler(
            sampling,
            num_members=len(seeds),
            num_envs=num_envs,
            capacity=self._capacity,
            length=self._length,
        )
        self.nbytes = replay_storage.total_bytes(layout)
        self._rings = Rings(layout, None if directory is None else Path(directory))
        self._written = np.zeros((len(seeds), num_envs), np.int64)
        self._marked = self._written.copy()
        # First record of the stream's episode in progress, -1 between episodes.
        self._open_start = np.full_like(self._written, -1)

    plan = staticmethod(replay_storage.plan_bytes)

    @property
    def written(self) -> np.ndarray:
        """Records ever added per stream, [M, E] int64."""
        return self._written.copy()

    @property
    def sizes(self) -> np.ndarray:
        """Live records per member, [M] int64."""
        return (self._written - self._oldest()).sum(axis=1)

    @property
    def sampleable(self) -> np.ndarray:
        """Which members have at least one sequence to draw, [M] bool."""
        return self._sampler.choices().sum(axis=1) > 0

    @property
    def ready(self) -> bool:
        """Whether `draw` can serve every member."""
        return bool(self.sampleable.all())

    @property
    def slack(self) -> int:
        """Records per stream that may be added between two `mark_checkpoint` calls."""
        return self._layout["slots"] - self._capacity

    @property
    def slack_left(self) -> int:
        """Records that every stream may still take before a `mark_checkpoint` is needed."""
        return int((self._marked + self.slack - self._written).min())

    def add(self, step: Mapping[str, np.ndarray], mask: np.ndarray) -> None:
        """Appends one record to each masked stream; does nothing at all if it raises.

        Args:
            step: an array [M, E, *shape] for exactly the keys of the spec.
            mask: which streams to append to, [M, E] bool; entries of others are not looked at.

        Raises:
            ValueError: keys, shapes or dtypes differ from the spec, or episodes do not follow one
                another (`is_first` exactly at the start and after `is_last` or `close_open`).
            RuntimeError: the slack is used up, a live record of the last checkpoint would go.
            OSError: the disk is full.
        """
        step = {key: np.asarray(value) for key, value in step.items()}
        mask = np.asarray(mask, bool)
        replay_storage.check_step(step, mask, self._layout)
        streams = member, env = np.nonzero(mask)
        is_first, is_last = step["is_first"][streams], step["is_last"][streams]
        self._check_order(streams, is_first)
        record = self._written[streams]
        if np.any(record - self._marked[streams] >= self.slack):
            raise RuntimeError(
                f"replay slack of {self.slack} steps per environment is used up: "
                "save a checkpoint and call mark_checkpoint, or make the slack larger"
            )
        self._rings.write(member, env, record, {key: step[key][streams] for key in step})
        self._written[streams] += 1
        self._open_start[streams] = np.where(is_first, record, self._open_start[streams])
        self._sampler.advance(self._oldest(), self._written)
        self._complete(member[is_last], env[is_last])

    def close_open(self, mask: np.ndarray) -> None:
        """Ends the episodes in progress in the masked streams [M, E], as truncated.

        Their last record gets `is_last`. This changes a live record: no gather may be under way.
        """
        member, env = np.nonzero(np.asarray(mask, bool) & (self._open_start >= 0))
        self._rings.mark_last(member, env, self._written[member, env] - 1, True)
        self._complete(member, env)

    def draw(self) -> Indices:
        """Draws B sequences per member from the members' own random streams.

        Raises:
            RuntimeError: a member has nothing to draw from, see `sampleable`.
        """
        if not self.ready:
            raise RuntimeError(
                f"replay members {np.flatnonzero(~self.sampleable).tolist()} have no sequence of "
                f"{self._length} steps to draw, they hold {self.sizes.tolist()} steps"
            )
        return draw_indices(self._sampler, self._generators, self._batch)

    def gather(self, indices: Indices) -> dict[str, np.ndarray]:
        """Copies the drawn sequences, each with `is_first` set at its beginning.

        May run in another thread while `add` goes on: up to `slack` records per stream added since
        the draw go to slots which were not live then.

        Returns:
            A new array [M, B, L, *shape] per key.

        Raises:
            RuntimeError: more was added since the draw, and records have been overwritten.
        """
        member = np.arange(len(self._generators))[:, None, None]
        record = indices.start[..., None] + np.arange(self._length)
        batch = self._rings.gather(member, indices.env[..., None], record)
        batch["is_first"][:, :, 0] = True
        return batch

    def mark_checkpoint(self, state: Mapping | None = None) -> None:
        """Declares the checkpoint of `state` (None: of now) the one to keep restorable.

        With asynchronous saving, pass the saved `state()` once it is safely stored.
        """
        self._marked = self._written.copy() if state is None else self._cursors(state, "written")

    def state(self) -> dict:
        """What `restore` needs besides the arrays: cursors and random streams, JSON data."""
        return {
            "written": self._written.tolist(),
            "open_start": self._open_start.tolist(),
            "generators": [rng.bit_generator.state for rng in self._generators],
        }

    def restore(self, state: Mapping) -> None:
        """Goes back to `state` of this replay, which becomes the marked checkpoint.

        Records added after it are forgotten. Draws go on exactly as they did from there, if no
        more than `slack` records per stream were added since.

        Raises:
            ValueError: the state is of another number of members or environments, or records
                that were live in it have been overwritten; nothing has changed then.
        """
        written, open_start = self._cursors(state, "written"), self._cursors(state, "open_start")
        if len(state["generators"]) != len(self._generators):
            raise ValueError(
                f"replay state has {len(state['generators'])} random streams, "
                f"expected {len(self._generators)}"
            )
        oldest = np.maximum(0, written - self._capacity)
        if np.any(np.minimum(written, self._rings.gone) > oldest):
            raise ValueError(
                "the replay has gone on too far since: records of that moment are overwritten"
            )
        self._written, self._marked, self._open_start = written, written.copy(), open_start
        for rng, rng_state in zip(self._generators, state["generators"], strict=True):
            rng.bit_generator.state = rng_state
        # close_open may have changed the last record after the state was taken.
        member, env = np.nonzero(written)
        last = written[member, env] - 1
        self._rings.mark_last(member, env, last, open_start[member, env] < 0)
        self._rebuild()

    def clear(self) -> None:
        """Begins anew, whatever the files hold from before."""
        self._rings.clear()

    def flush(self) -> None:
        """Has what is in the files written to disk; may run in another thread."""
        self._rings.flush()

    def close(self) -> None:
        """Flushes and lets go of the arrays; the replay cannot be used afterwards."""
        self._rings.close()

    def _oldest(self) -> np.ndarray:
        """The first live record per stream, [M, E]; live are [oldest, written)."""
        return np.maximum(0, self._written - self._capacity)

    def _complete(self, member: np.ndarray, env: np.ndarray) -> None:
        start, stop = self._open_start[member, env], self._written[member, env]
        self._sampler.complete(member, env, start, stop)
        self._open_start[member, env] = -1

    def _rebuild(self) -> None:
        oldest = self._oldest()
        self._sampler.advance(oldest, self._written)
        for member, env in np.ndindex(*self._written.shape):
            records = np.arange(oldest[member, env], self._written[member, env])
            is_first, is_last = (
                self._rings.read(key, member, env, records) for key in ("is_first", "is_last")
            )
            self._sampler.rebuild(member, env, *find_episodes(records, is_first, is_last))

    def _cursors(self, state: Mapping, key: str) -> np.ndarray:
        cursors = np.array(state[key], np.int64)
        if cursors.shape != self._written.shape:
            raise ValueError(
                f"replay state is of members and environments {cursors.shape}, "
                f"expected {self._written.shape}"
            )
        return cursors

    def _check_order(self, streams: tuple[np.ndarray, np.ndarray], is_first: np.ndarray) -> None:
        wrong = is_first != (self._open_start[streams] < 0)
        if np.any(wrong):
            member, env = (int(part[wrong][0]) for part in streams)
            problem = (
                "starts an episode inside another, call close_open first"
                if is_first[wrong][0]
                else "goes on without is_first though no episode is in progress"
            )
            raise ValueError(f"replay stream of member {member}, environment {env} {problem}")
