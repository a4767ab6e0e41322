"""Read and write metrics.jsonl: a JSON object per line, intact after crashes and full disks."""

import contextlib
import json
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import FileIO
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any

from dreamer_jax.errors import UsageError

ROW_KEYS = ("member", "seed", "env_step", "frame", "update")


def encode_row(row: Mapping[str, Any]) -> bytes:
    """Return a row as a line of metrics.jsonl: strict JSON, `ROW_KEYS` first, a final newline."""
    missing = [key for key in ROW_KEYS if key not in row]
    if missing:
        raise ValueError(f"metrics row lacks {missing}; it has {list(row)}")
    scalars = {key: _scalar(key, row[key]) for key in dict.fromkeys((*ROW_KEYS, *row))}
    for key in ROW_KEYS:
        if type(scalars[key]) is not int:
            raise ValueError(f"metrics row: {key!r} must be a whole number, not {row[key]!r}")
    return (json.dumps(scalars, allow_nan=False) + "\n").encode()


# NaN and Infinity, which JSON does not have, are read as null, as `encode_row` writes them.
_DECODER = json.JSONDecoder(parse_constant=lambda name: None)


def parse_json(content: bytes) -> Any:
    """Parse JSON of unknown origin.

    Raises:
        ValueError: it is not JSON, or too deep.
    """
    try:
        return _DECODER.decode(content.decode("utf-8-sig"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """Return all rows of a metrics.jsonl, except a torn last line.

    Raises:
        ValueError: another line is not a JSON object; the message has its number.
    """

    def fail(message: str) -> None:
        raise ValueError(message)

    return list(iter_rows(path, on_bad=fail))


def iter_rows(
    path: str | Path,
    *,
    on_bad: Callable[[str], None],
    on_torn: Callable[[str], None] = lambda message: None,
) -> Iterator[dict[str, Any]]:
    """Yield the rows of a metrics.jsonl, which a process may be writing.

    Args:
        path: the file.
        on_bad: called with a message for each line that is not a JSON object and is left out.
        on_torn: called with a message if the last line is incomplete and is left out.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                on_torn(f"{path}, line {number}: incomplete")
                return
            try:
                row = parse_json(line)
            except ValueError as error:
                on_bad(f"{path}, line {number}: not JSON ({error})")
                continue
            if isinstance(row, dict):
                yield row
            else:
                on_bad(f"{path}, line {number}: not a JSON object")


def _scalar(key: str, value: Any) -> bool | int | float | str | None:
    if hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    shape = f" of shape {tuple(value.shape)}" if hasattr(value, "shape") else ""
    given = type(value).__name__ + shape
    raise ValueError(f"metrics row: {key!r} must be a scalar, a string or None, not {given}")


class MetricsLog:
    """A file that rows are appended to. A failing disk delays rows and does not stop the run.

    Every line reaches the operating system before `write` returns. When that fails, the file is
    truncated to its last complete line, and the rows wait, in order, for the next write.
    """

    def __init__(
        self, path: Path, *, warn: Callable[[str], None] = print, pending_limit: int = 64 * 2**20
    ):
        """Open or create the file, and remove a torn last line.

        Args:
            warn: called with a message when writing begins to fail, when lines begin to be dropped,
                and when writing works again.
            pending_limit: bytes of pending lines to hold; beyond it the oldest are dropped.
        """
        self._path, self._warn, self._pending_limit = path, warn, pending_limit
        self._pending: deque[bytes] = deque()
        self._dropped = 0
        self._error: OSError | None = None  # of the last write, if it failed
        # Unbuffered: a buffer would hide how much of a failed write reached the file.
        self._file = open(self._path, "a+b", buffering=0)
        # Bytes of complete lines in the file, without the pending ones.
        self.offset = _end_of_last_line(self._file)
        self._file.truncate(self.offset)
        self._torn = False

    @property
    def pending(self) -> list[str]:
        """The lines that are not in the file yet, oldest first."""
        return [line.decode() for line in self._pending]

    def write(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append rows, after those still pending.

        Args:
            rows: each has `ROW_KEYS`, all whole numbers, and any scalars, strings and None.
                Non-finite numbers are written as null.

        Raises:
            ValueError: a row lacks a key or holds another value; none is written then.
        """
        self._pending += [encode_row(row) for row in rows]
        self._drain()

    def flush(self) -> bool:
        """Retry the pending lines and sync the file; return whether `offset` bytes are on disk."""
        if not self._drain():
            return False
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            self._warn(f"{self._path}: could not be synced to disk ({error.strerror})")
            return False
        return True

    def cut(self, offset: int, pending: Sequence[str] = ()) -> None:
        """Return to the state of a checkpoint.

        Args:
            offset: `self.offset` then; later bytes are removed.
            pending: `self.pending` then; the next write retries them.

        Raises:
            UsageError: the file is shorter, or `offset` is not the end of a line.
        """
        inside = 0 < offset <= self.offset
        if offset and not (inside and os.pread(self._file.fileno(), 1, offset - 1) == b"\n"):
            raise UsageError(
                f"{self._path}: byte {offset} of {self.offset} is not the end of a line; the file "
                "was changed since the checkpoint was written. Put a copy back, or start over in "
                "another work directory"
            )
        self._file.truncate(offset)
        self.offset, self._torn = offset, False
        self._pending = deque(line.encode() for line in pending)

    def close(self) -> None:
        """Retry the pending lines a last time, and close the file.

        Raises:
            OSError: some cannot be written; the message says how many are lost.
        """
        if self._file.closed:
            return
        drained = self._drain()
        self._file.close()
        if not drained:
            lost, error = len(self._pending) + self._dropped, self._error
            message = f"{lost} lines are lost: {error.strerror or error}"
            raise OSError(error.errno, message, str(self._path)) from error

    def _drain(self) -> bool:
        """Write the pending lines in order; return whether none is left."""
        count = len(self._pending)
        try:
            while self._pending:
                self._append(self._pending[0])
                self._pending.popleft()
        except OSError as error:
            self._fail(error)
            return False
        if self._error is not None:
            self._warn(
                f"{self._path}: writing works again, {count} lines caught up, "
                f"{self._dropped} lines were lost"
            )
            self._error, self._dropped = None, 0
        return True

    def _append(self, line: bytes) -> None:
        if self._torn:
            self._file.truncate(self.offset)
        self._torn = True
        rest = memoryview(line)
        while rest:
            rest = rest[self._file.write(rest) :]
        self._torn = False
        self.offset += len(line)

    def _fail(self, error: OSError) -> None:
        if self._error is None:
            self._warn(
                f"{self._path}: cannot be written ({error.strerror or error}); training continues, "
                f"{len(self._pending)} lines are pending and retried at every write"
            )
        self._error = error
        # If this fails, the next append removes the partial line before it writes.
        with contextlib.suppress(OSError):
            self._file.truncate(self.offset)
            self._torn = False
        before, size = self._dropped, sum(map(len, self._pending))
        while size > self._pending_limit:
            size -= len(self._pending.popleft())
            self._dropped += 1
        if self._dropped and not before:
            self._warn(
                f"{self._path}: more than {self._pending_limit} bytes of lines are pending, "
                "the oldest are dropped"
            )


def _end_of_last_line(file: FileIO) -> int:
    """Return the offset after the last newline; 0 if there is none."""
    if not os.fstat(file.fileno()).st_size:
        return 0  # cannot be mapped
    with mmap(file.fileno(), 0, access=ACCESS_READ) as content:
        return content.rfind(b"\n") + 1
