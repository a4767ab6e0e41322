"""How much of a metrics.jsonl has been sent to a service, and the rows that have not."""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from dreamer_jax.files import replacing


@dataclasses.dataclass(frozen=True)
class Sent:
    """What has been sent, and under which names; JSON data in a file.

    Progress is a place in the run's time and no byte offset: after a crash a run goes back to its
    checkpoint and writes the same lines again, with other seconds in them.
    """

    target: Mapping[str, str | None]  # where it was sent to
    ids: tuple[str, ...]  # of the service's runs
    steps: tuple[int, ...]  # the number of the next history row of each of them
    env_step: int = -1  # of the last row sent
    lines: int = 0  # rows sent that have this env step
    videos: Mapping[str, int] = dataclasses.field(default_factory=dict)  # the last env step of each

    def with_rows(self, env_step: int, lines: int) -> "Sent":
        """What has been sent when every run has got one more history row."""
        steps = tuple(step + 1 for step in self.steps)
        return dataclasses.replace(self, steps=steps, env_step=env_step, lines=lines)

    def with_video(self, run: int, key: str, env_step: int) -> "Sent":
        """What has been sent when run number `run` has got one more history row, of a video."""
        steps = tuple(step + (i == run) for i, step in enumerate(self.steps))
        return dataclasses.replace(self, steps=steps, videos={**self.videos, key: env_step})

    def save(self, path: Path) -> None:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def load(cls, path: Path) -> "Sent | None":
        """What a file says; None if it does not exist.

        Raises:
          ValueError: the file is damaged.
        """
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
    """Rows of different members that were written together."""

    rows: list[dict[str, Any]]
    env_step: int
    lines: int  # of this env step, up to and with this group


class UnsentRows:
    """Reads the rows of a growing metrics.jsonl that are not sent yet, a group at a time."""

    def __init__(self, path: Path, *, num_members: int, sent: Sent):
        """
        Args:
          path: need not exist before the first `read`; is not cut from then on.
          num_members: rows of a full group.
          sent: rows up to here are left out.
        """
        self._path, self._num_members = path, num_members
        self._sent = (sent.env_step, sent.lines)
        self._offset = 0
        self._place = (-1, 0)  # env step of the last line read, lines of this env step
        self._rows: list[dict[str, Any]] = []
        self.frames_per_step = 1  # as the rows have it, sent ones too

    def read(self, end: int) -> Iterator[Group]:
        """The groups that are complete before byte `end`; the rest waits for what comes.

        Raises:
          OSError: the file cannot be read.
          ValueError: a line is not a row.
        """
        with open(self._path, "rb") as file:
            file.seek(self._offset)
            while self._offset < end and (line := file.readline()).endswith(b"\n"):
                self._offset += len(line)
                yield from self._take(json.loads(line))

    def rest(self) -> Iterator[Group]:
        """The group that was not complete, if there is one."""
        if self._rows:
            rows, self._rows = self._rows, []
            yield Group(rows, *self._place)

    def _take(self, row: dict[str, Any]) -> Iterator[Group]:
        env_step = row["env_step"]
        members = [other["member"] for other in self._rows]
        if env_step != self._place[0] or row["member"] in members:
            yield from self.rest()
        self._place = (env_step, self._place[1] + 1 if env_step == self._place[0] else 1)
        if env_step:
            self.frames_per_step = row["frame"] // env_step
        if self._place > self._sent:
            self._rows.append(row)
        if len(self._rows) == self._num_members:
            yield from self.rest()
