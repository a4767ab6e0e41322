"""Rings of records, in memory-mapped files or in memory, that never lose a record unnoticed.

A ring holds the records of one member. In each of its streams record t lies in slot t % slots, in
the place of record t - slots. Its files are `layout.json`, one file per entry with the array
[E, slots, *record], and the high water: the largest number of records ever written per stream. The
high water survives a restart and a return to an earlier checkpoint, so it always shows which
records are intact. Disk space is reserved before a record is written, because a memory map that
meets a full disk kills the process (SIGBUS).
"""

import errno
import os
import resource
import shutil
import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from dreamer_jax.errors import UsageError
from dreamer_jax.files import replacing
from dreamer_jax.replay.layout import Layout

LAYOUT_FILE = "layout.json"
HIGH_WATER_FILE = "high_water.i64"
CHUNK = 16 * 2**20  # bytes reserved at a time
OTHER_FILES = 512  # open files that the rest of the process may need


class Ring:
    """The records of one member, [E, slots] of each entry."""

    def __init__(self, layout: Layout, directory: Path | None):
        """Allocate a ring lazily in memory, or open the files that `open_rings` made."""
        self._layout, self._directory = layout, directory
        self._maps: list[np.memmap] = []  # of the files
        # The largest number of records ever written per stream, [E].
        self.high_water = self._array(HIGH_WATER_FILE, np.dtype(np.int64), (layout.envs,))
        self._rows = {
            key: self._array(entry_name(key), dtype, (layout.envs * layout.slots, *record))
            for key, (record, dtype) in layout.entries.items()
        }
        # Where the system cannot reserve space, a full disk still kills the process.
        reserves = directory is not None and hasattr(os, "posix_fallocate")
        self._reserved = 0 if reserves else layout.slots

    def preallocate(self, records: int) -> None:
        """Reserve the disk space of the first `records` slots of every stream, or raise OSError."""
        layout = self._layout
        records = min(records, layout.slots)
        if records <= self._reserved:
            return
        chunk = max(1, CHUNK * layout.slots // layout.nbytes)
        stop = min(layout.slots, max(records, self._reserved + chunk))
        for key in layout.entries:
            record, path = layout.record_nbytes(key), self._directory / entry_name(key)
            size = (stop - self._reserved) * record
            with open(path, "r+b") as file:
                for env in range(layout.envs):
                    start = (env * layout.slots + self._reserved) * record
                    try:
                        os.posix_fallocate(file.fileno(), start, size)
                    except OSError as error:
                        message = f"no room for the next steps of the replay ({error.strerror})"
                        raise OSError(error.errno, message, str(path)) from error
        self._reserved = stop

    def write(
        self, env: int, record: int, step: Mapping[str, np.ndarray], index: tuple[int, int]
    ) -> None:
        """Write the record `step[key][index]` to a stream, in slots that are preallocated."""
        # Before the data, so that neither a gather in another thread nor a later process ever
        # trusts a slot that is half written.
        if record >= self.high_water[env]:
            self.high_water[env] = record + 1
        row = self._row(env, record)
        for key, rows in self._rows.items():
            rows[row] = step[key][index]

    def read(self, key: str, env: int, records: np.ndarray) -> np.ndarray:
        """Return a copy of one entry of records [K] of a stream, [K, *record]."""
        return self._rows[key][self._row(env, records)]

    def set_last(self, env: int, record: int, is_last: bool) -> None:
        """Change the flag `is_last` of a record."""
        self._rows["is_last"][self._row(env, record)] = is_last

    def gather(self, env: np.ndarray, start: np.ndarray, out: Mapping[str, np.ndarray]) -> None:
        """Copy sequences that start at records `start` [B] of streams `env` [B].

        Another thread may call `write` meanwhile.

        Args:
            out: an array [B, L, *record] to copy to for each key that is wanted.
        """
        length = next(iter(out.values())).shape[1]
        row = self._row(env[:, None], start[:, None] + np.arange(length))
        for key, array in out.items():
            # The default mode, "raise", copies twice.
            self._rows[key].take(row, axis=0, out=array, mode="clip")
        # After the copy, to notice records that were overwritten meanwhile.
        if not intact(self._layout, self.high_water, env, start):
            raise RuntimeError("replay indices are too old: their records have been overwritten")

    def copy(self, source: "Ring", env: int, start: int, stop: int) -> None:
        """Copy the records from `start` to `stop` of a stream of another ring of this layout."""
        start = max(start, stop - self._layout.slots)
        if start >= stop:
            return
        self.preallocate(stop)
        self.high_water[env] = max(self.high_water[env], stop)  # before the data, as in `write`
        first, last = self._row(env, start), self._row(env, stop - 1) + 1
        begin, end = env * self._layout.slots, (env + 1) * self._layout.slots
        pieces = [(first, last)] if first < last else [(first, end), (begin, last)]
        for key, rows in self._rows.items():
            for low, high in pieces:
                rows[low:high] = source._rows[key][low:high]

    def clear(self) -> None:
        """Forget everything written before."""
        self.high_water[:] = 0

    def flush(self) -> None:
        """Write the files to disk; may run in another thread."""
        for array in self._maps:
            # Unlike `array.flush`, this lets other threads run meanwhile.
            with open(array.filename, "rb") as file:
                os.fsync(file.fileno())

    def close(self) -> None:
        """Flush and release the arrays; no record can be read or written afterwards."""
        self.flush()
        self._maps, self._rows = [], {}
        self.high_water = np.array(self.high_water)

    def _array(self, name: str, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
        if self._directory is None:
            return np.zeros(shape, dtype)
        self._maps.append(np.memmap(self._directory / name, dtype, "r+", shape=shape))
        # A plain array, because indexing a memory map makes another map, slowly.
        return np.asarray(self._maps[-1])

    def _row(self, env, record):
        return env * self._layout.slots + record % self._layout.slots


def oldest_live(layout: Layout, written: np.ndarray) -> np.ndarray:
    """Return the first live record of streams of `written` records; live are [oldest, written)."""
    return np.maximum(0, written - layout.capacity)


def intact(layout: Layout, high_water: np.ndarray, env: np.ndarray, start: np.ndarray) -> bool:
    """Return whether streams `env` [K] still hold all their records from `start` [K] on.

    `high_water` is that of their ring, [E].
    """
    return bool(np.all(start >= high_water[env] - layout.slots))


def live_intact(layout: Layout, high_water: np.ndarray, written: np.ndarray) -> bool:
    """Return whether a ring holds all records that were live when `written` [E] were written."""
    env = np.flatnonzero(written)
    live = intact(layout, high_water, env, oldest_live(layout, written)[env])
    return live and bool(np.all(written <= high_water))


def entry_name(key: str) -> str:
    """Return the name of the file of one entry's array."""
    return urllib.parse.quote(key, safe="") + ".bin"


def member_directories(directory: Path, numbers: Iterable[int]) -> list[Path]:
    """Return the directory of each member's ring inside the replay's."""
    return [directory / str(number) for number in numbers]


def open_rings(
    layout: Layout,
    num_members: int,
    directory: str | Path | None,
    numbers: Sequence[int] | None = None,
) -> list[Ring]:
    """Make the rings of M members, or open those that `directory` holds.

    Files and memory are lazy: space is taken as slots are first written.

    Args:
        directory: has or gets one directory per member; None keeps the rings in memory.
        numbers: the names of these directories, among others; None for 0 to M - 1 and no others.
    """
    if directory is None:
        return [Ring(layout, None) for _ in range(num_members)]
    directory = Path(directory).resolve()
    members = member_directories(directory, range(num_members) if numbers is None else numbers)
    check_version(directory)
    existing = [int(path.name) for path in directory.glob("*") if path.name.isdecimal()]
    found = 1 + max(existing, default=-1)
    if numbers is None and found > num_members:
        raise UsageError(
            f"the replay in {directory} has {found} members, asked for {num_members}; use the "
            "settings it was made with, or another directory"
        )
    missing = [path for path in members if not _check_existing(layout, path)]
    check_disk(layout, members)
    _allow_open_files(num_members * (len(layout.entries) + 1))
    for path in missing:
        _create(layout, path)
    return [Ring(layout, path) for path in members]


def check_version(directory: Path) -> None:
    """Raise UsageError if a replay's directory is of a version that stacked all members."""
    if (directory / LAYOUT_FILE).exists():
        raise UsageError(
            f"the replay in {directory} was made by an earlier version, which kept all members in "
            "the same files; resume the run with that version, or use another work directory"
        )


def _check_existing(layout: Layout, directory: Path) -> bool:
    """Return whether a directory holds a ring; UsageError if of another layout or damaged."""
    if not (directory / LAYOUT_FILE).exists():
        return False
    if differences := read_layout(directory).differences(layout):
        raise UsageError(
            f"the replay in {directory} has another layout (there -> asked for): "
            f"{'; '.join(differences)}. Use the settings it was made with, or another directory"
        )
    for path, expected in _file_sizes(layout, directory).items():
        size = path.stat().st_size if path.exists() else 0
        if size != expected:
            raise UsageError(f"{path} is damaged: {size} bytes, its layout needs {expected}")
    return True


def read_layout(directory: Path) -> Layout:
    """Read the layout of the ring in a directory; UsageError if its file is damaged."""
    file = directory / LAYOUT_FILE
    try:
        return Layout.from_json(file.read_text())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{file} is damaged: {type(error).__name__}: {error}") from error


def _create(layout: Layout, directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for path, size in _file_sizes(layout, directory).items():
        with open(path, "wb") as file:
            file.truncate(size)
    # Last: a layout file is only ever found beside complete files.
    with replacing(directory / LAYOUT_FILE) as file:
        file.write_text(layout.to_json())


def _file_sizes(layout: Layout, directory: Path) -> dict[Path, int]:
    """Return the size in bytes of each of a ring's files."""
    rows = layout.envs * layout.slots
    sizes = {
        directory / entry_name(key): rows * layout.record_nbytes(key) for key in layout.entries
    }
    return sizes | {directory / HIGH_WATER_FILE: layout.envs * 8}


def check_disk(layout: Layout, members: Sequence[Path]) -> None:
    """Raise OSError if the disk has less space than the full rings in these directories need."""
    files = [path / entry_name(key) for path in members for key in layout.entries]
    # 512 is the unit of st_blocks whatever the file system's own block size.
    taken = sum(file.stat().st_blocks * 512 for file in files if file.exists())
    needed = max(0, len(members) * layout.nbytes - taken)
    directory = members[0].parent
    mounted = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(mounted).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"the replay will need {needed} more bytes ({needed / 2**30:.1f} GiB) but {free} "
            f"({free / 2**30:.1f} GiB) are free; lower its capacity or use another disk",
            os.fspath(directory),
        )


def _allow_open_files(count: int) -> None:
    """Make room for so many more open files, as far as the process may.

    Every memory map holds one.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = len(os.listdir("/dev/fd")) + count + OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        needed = min(needed, hard)
    if soft != resource.RLIM_INFINITY and soft < needed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
