"""Training with `config.loop = "device"`: calls of one program, and the work due between them."""

import contextlib
import time
from collections.abc import Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.replay.device import close_open
from dreamer_jax.run import schedule
from dreamer_jax.run.checkpoint import LOOP
from dreamer_jax.run.device_loop import Carried, EpisodeSums, Progress
from dreamer_jax.run.memory import check_memory
from dreamer_jax.run.trainer import Trainer
from dreamer_jax.seeding import VIDEO_KEY, member_keys
from dreamer_jax.types import Batch

CALL_SECONDS = 1.0  # wanted duration of a call of the program, after which signals are noticed
NEVER = 2**31 - 1


class DeviceTrainer(Trainer):
    """A run in progress, all of whose environments, replay and updates are on the device."""

    def _open_replay(self, is_resumed: bool, closing: contextlib.ExitStack) -> "CheckpointedReplay":
        check_memory(self._setup)
        return CheckpointedReplay()

    def _open_envs(self, closing: contextlib.ExitStack) -> None:
        self._turns = 1  # of the next call; their number has no effect on the results

    def _step(self) -> None:
        """Take steps, and make updates, until work is due or for about a second."""
        until = schedule.next_due(self._config, self._env_step)
        if self._env_step < self._config.prefill:
            until = min(until, self._config.prefill)
        self._call(until, catch_up=False)
        is_due = self._env_step >= until
        self._due = schedule.work_due(self._config, self._env_step) if is_due else []

    def _update_until(self, count: int) -> None:
        while self._update < count:
            self._check_stop()
            self._call(self._env_step, catch_up=True)

    def _call(self, until: int, *, catch_up: bool) -> None:
        began = time.monotonic()
        if not self._update and self._env_step >= self._config.prefill:
            self._turns = 1  # so that the call of the first update makes no others
        turns = self._turns
        counts = (self._env_step, self._update, turns)
        progress = Progress(*(jnp.asarray(count, jnp.int32) for count in counts))
        carried = Carried(progress, self._state, self._carry, self._loop, self._replay_arrays)
        carried = self._setup.device_loop.run(carried, until, catch_up=catch_up)
        self._state, self._carry = carried.state, carried.carry
        self._loop, self._replay_arrays = carried.loop, carried.replay
        progress, empty = jax.device_get((carried.progress, carried.loop.empty))
        had_updates = self._update > 0
        self._env_step, self._update = int(progress.env_step), int(progress.update)
        if self._update:
            if not had_updates and empty.all():
                raise self._nothing_to_learn()
            self._report_empty(empty)
        per_second = (turns - int(progress.turns)) / (time.monotonic() - began)
        self._turns = int(min(max(1, CALL_SECONDS * per_second), 2 * turns))

    def _pop_episodes(self) -> list[dict]:
        episodes = jax.device_get(self._loop.episodes)
        self._reporter.add(self._loop.sums)
        members = len(self._setup.seeds)
        fresh = {
            "episodes": EpisodeSums.none(members),
            "sums": jax.tree.map(jnp.zeros_like, self._loop.sums),
        }
        self._loop = self._loop.replace(**self._setup.placement.put(fresh))
        records = [_summary(episodes, member) for member in range(members)]
        # Only means of lengths are known; an episode has a record more than steps.
        shortest = min(record.get("train_length", NEVER) for record in records)
        if shortest + 1 < self._config.length and self._config.replay.sampling != "time":
            self._say_short()
        return records

    def _peek_batch(self) -> Batch:
        return self._setup.device_loop.batch(self._loop, self._replay_arrays)

    def _video_batch(self) -> Batch:
        keys = member_keys(self._setup.seeds, VIDEO_KEY)
        keys = jax.vmap(partial(jax.random.fold_in, data=self._env_step))(keys)
        return self._setup.device_loop.video_batch(keys, self._replay_arrays)

    def _arrays(self) -> dict:
        return {**super()._arrays(), LOOP: {"state": self._loop, "replay": self._replay_arrays}}

    def _set_arrays(self, arrays: dict) -> None:
        super()._set_arrays(arrays)
        self._loop, self._replay_arrays = (arrays[LOOP][name] for name in ("state", "replay"))

    def _loop_records(self) -> dict[str, list]:
        return {"replay": [None] * len(self._setup.seeds)}

    def _restore_loop(self, states: Mapping[str, list], changed: Sequence[bool]) -> np.ndarray:
        closed = np.repeat(np.array(changed)[:, None], self._config.env.num_envs, 1)
        if closed.any():
            replay = close_open(self._replay_arrays, closed, self._config.length)
            loop = self._loop.replace(is_first=self._loop.is_first | closed)
            self._loop, self._replay_arrays = self._setup.placement.put((loop, replay))
        return ~closed


class CheckpointedReplay:
    """Stands for a replay that is part of every checkpoint, so that nothing keeps it in step.

    It has what `Saver` asks of a `Replay`.
    """

    slack = remaining_slack = NEVER
    written = np.zeros(1, np.int64)

    def pin(self, records: Sequence) -> None:
        """Do nothing: no checkpoint depends on what is written later."""

    restore = pin

    def clear(self) -> None:
        """Do nothing: a new run has a new replay."""

    flush = clear


def _summary(episodes: EpisodeSums, member: int) -> dict[str, float | int]:
    """Return the statistics of a member's episodes, as `EpisodeStats.pop` does."""
    count = int(episodes.count[member])
    if not count:
        return {}
    return {
        "train_return": float(episodes.total[member]) / count,
        "train_return_min": float(episodes.low[member]),
        "train_return_max": float(episodes.high[member]),
        "train_length": int(episodes.steps[member]) / count,
        "train_episodes": count,
    }
