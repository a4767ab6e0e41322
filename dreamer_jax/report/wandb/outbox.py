"""The rows of metrics.jsonl that W&B lacks, and the record of those that it has.

Progress is a place in the run's time, not a byte offset: a resumed run returns to its checkpoint
and writes the same lines again, with other rates in them.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dreamer_jax.files import replacing


@dataclasses.dataclass(frozen=True)
class SyncState:
    """The W&B runs of a work directory and what they have been sent; JSON in `wandb.json`."""

    target: Mapping[str, str | None]  # entity, project and group
    ids: tuple[str, ...]  # of the W&B runs: those of the members, then the aggregate's
    steps: tuple[int, ...]  # the number of the next history row of each of them
    env_step: int = -1  # of the last row sent
    lines: int = 0  # rows sent that have this env step
    videos: Mapping[str, int] = dataclasses.field(default_factory=dict)  # the last env step of each

    def with_rows(self, env_step: int, lines: int) -> "SyncState":
        """Return the state after every run has received another history row."""
        steps = tuple(step + 1 for step in self.steps)
        return dataclasses.replace(self, steps=steps, env_step=env_step, lines=lines)

    def with_video(self, run: int, key: str, env_step: int) -> "SyncState":
        """Return the state after a run has received another history row, with a video."""
        steps = tuple(step + (i == run) for i, step in enumerate(self.steps))
        return dataclasses.replace(self, steps=steps, videos={**self.videos, key: env_step})

    def save(self, path: Path) -> None:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def load(cls, path: Path) -> "SyncState | None":
        """Return the state that `save` wrote; None if there is no file."""
        if not path.exists():
            return None
        try:
            data = json.loads(path.read_text())
            data |= {key: tuple(data[key]) for key in ("ids", "steps")}
            return cls(**data)
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} cannot be read ({error}); without it everything is sent to new runs"
            ) from error


class Group(NamedTuple):
    """Rows that members wrote together."""

    rows: list[dict[str, Any]]
    env_step: int
    lines: int  # with this env step, up to and including this group


class PendingRows:
    """The rows of a growing metrics.jsonl that have not been sent, a group at a time."""

    def __init__(self, path: Path, *, num_members: int, place: tuple[int, int]):
        """Skip the rows up to a place: an env step, and the number of lines that have it."""
        self._path, self._num_members, self._sent = path, num_members, place
        self._rewind()

    def read(self) -> Iterator[Group]:
        """Yield the groups that have been completed.

        An incomplete group at the end of the file waits for its other rows. It is yielded as it is
        when later rows show that they are lost.
        """
        with open(self._path, "rb") as file:
            file.seek(self._offset - len(self._last_line))
            if file.read(len(self._last_line)) != self._last_line:
                # A resumed run has cut the file back and writes these lines again.
                self._rewind()
                file.seek(0)
            while (line := file.readline()).endswith(b"\n"):
                self._offset, self._last_line = self._offset + len(line), line
                yield from self._take(json.loads(line))

    def _rewind(self) -> None:
        self._offset = 0
        self._last_line = b""
        self._place = (-1, 0)  # of the last line read: its env step, and lines of this env step
        self._rows: list[dict[str, Any]] = []  # of the group that is being read

    def _take(self, row: dict[str, Any]) -> Iterator[Group]:
        env_step = row["env_step"]
        same_step = env_step == self._place[0]
        if not same_step or row["member"] in [other["member"] for other in self._rows]:
            yield from self._close_group()
        self._place = (env_step, self._place[1] + 1 if same_step else 1)
        if self._place > self._sent:
            self._rows.append(row)
        if len(self._rows) == self._num_members:
            yield from self._close_group()

    def _close_group(self) -> Iterator[Group]:
        if self._rows:
            rows, self._rows = self._rows, []
            self._sent = self._place
            yield Group(rows, *self._place)
