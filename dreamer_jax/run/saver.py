"""When a run is saved, and what it goes on from: checkpoints and the replay's slack together."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dreamer_jax.errors import UsageError
from dreamer_jax.replay.replay import Replay
from dreamer_jax.run.checkpoint import Checkpoints, DamagedCheckpoint


class Saver:
    """Saves by env steps, by minutes, and before the replay outruns its slack.

    The replay keeps the two newest checkpoints restorable, so that the second is there if the
    newest turns out to be damaged: what is saved at least every half of the slack.

    Args:
        margin: records per stream that may be written from one call of `due` to the next, and
            from the draw of a batch to the checkpoint that keeps its indices.
        minutes: between two checkpoints; 0: not by time.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        replay: Replay,
        *,
        margin: int,
        minutes: float,
        warn: Callable[[str], None],
    ):
        self._checkpoints, self._replay, self._warn = checkpoints, replay, warn
        self._margin, self._minutes = margin, minutes
        self._half = max(1, (replay.slack - 2 * margin) // 2)
        self._saved_at = time.monotonic()
        self._saved_records = replay.written
        # The replay's state in the newest finished checkpoint.
        self._newest: Sequence[Mapping] | None = None
        self._step: int | None = None

    @property
    def step(self) -> int | None:
        """The env step of the newest finished checkpoint."""
        return self._step

    def due(self) -> bool:
        """Whether to save now, by the clock or for the replay's sake."""
        late = time.monotonic() - self._saved_at >= 60 * self._minutes > 0
        records = int((self._replay.written - self._saved_records).max())
        return late or records >= self._half or self._replay.remaining_slack <= self._margin

    def save(self, arrays: Any, host: Mapping) -> None:
        """Start saving. Args: host: JSON data with `env_step`, and `replay`, its state."""
        self.collect(wait=True)
        self._checkpoints.save(host["env_step"], arrays, host, before=self._replay.flush)
        self._saved_at, self._saved_records = time.monotonic(), self._replay.written

    def collect(self, *, wait: bool = False) -> None:
        """Give the replay back the slack that a finished checkpoint has freed.

        Raises:
            OSError: the checkpoint could not be written.
        """
        wait = wait or self._replay.remaining_slack <= self._margin
        host = self._checkpoints.completed(wait=wait)
        if host is not None:
            self._replay.pin(self._newest or host["replay"])
            self._newest, self._step = host["replay"], host["env_step"]

    def restore(self, shapes: Any) -> tuple[Any, dict] | None:
        """Read the newest checkpoint that is whole, and bring the replay back to it.

        Args:
            shapes: as in `Checkpoints.restore`.

        Returns:
            Its arrays and host data; None if the run has not been saved yet.

        Raises:
            UsageError: there were checkpoints, but none is left that the run can go on from.
        """
        for step in self._checkpoints.steps():
            try:
                arrays, host = self._checkpoints.restore(step, shapes)
            except DamagedCheckpoint as error:
                where = self._checkpoints.set_aside(step)
                self._warn(f"the checkpoint of env step {step} is damaged: {error}; now in {where}")
                continue
            self._restore_replay(host)
            return arrays, host
        if self._checkpoints.had_any():
            raise UsageError(
                f"the checkpoints of this run are gone or damaged ({self._checkpoints.directory}); "
                "put one back, or begin anew in another work directory"
            )
        self._replay.clear()
        return None

    def close(self) -> None:
        """Finish what is being saved."""
        self._checkpoints.close()

    def _restore_replay(self, host: Mapping) -> None:
        try:
            self._replay.restore(host["replay"])
        except ValueError as error:
            raise UsageError(f"cannot go on from env step {host['env_step']}: {error}") from error
        self._newest, self._step = host["replay"], host["env_step"]
        self._saved_records = self._replay.written
