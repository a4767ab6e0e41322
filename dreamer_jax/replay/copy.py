"""Copies members' streams from the files of replays to those of a new one."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dreamer_jax.errors import UsageError
from dreamer_jax.replay.layout import LAYOUT_FILE, array_bytes, entry_file
from dreamer_jax.replay.space import HIGH_WATER_FILE

CHUNK = 16 * 2**20  # bytes read at a time


@dataclass(frozen=True)
class Streams:
    """Members' streams in the files of a replay, as a checkpoint knows them.

    A process may be writing on: what was live at the checkpoint stays for a while.
    """

    directory: Path
    layout: dict  # of the whole replay
    members: list[int]  # K numbers in it
    written: np.ndarray  # [K, E] int64, records added up to the checkpoint
    drawn: tuple[np.ndarray, np.ndarray] | None  # env, start [K, B] of the batch in flight then

    @property
    def slots(self) -> np.ndarray:
        """How many slots, from the first on, the checkpoint may look at, [K, E] int64."""
        return np.minimum(self.written, self.layout["slots"])

    @property
    def nbytes(self) -> int:
        """What a copy takes."""
        records = [_record_bytes(self.layout, key) for key in self.layout["entries"]]
        return sum(records) * int(self.slots.sum())

    def high_water(self) -> np.ndarray:
        """Records ever written by now, [K, E] int64."""
        shape = self.layout["members"], self.layout["envs"]
        return np.fromfile(self.directory / HIGH_WATER_FILE, np.int64).reshape(shape)[self.members]

    def check_intact(self, high_water: np.ndarray) -> None:
        """Raise UsageError if records that the checkpoint needs were overwritten by then."""
        gone = high_water - self.layout["slots"]  # records before these
        oldest = np.maximum(0, self.written - self.layout["stream_capacity"])
        lost = np.any(np.minimum(self.written, gone) > oldest)
        if self.drawn is not None:
            env, start = self.drawn
            lost |= np.any(start < np.take_along_axis(gone, env, axis=1))
        if lost:
            raise UsageError(
                f"{self.directory} has gone on too far since the checkpoint: its records are "
                "overwritten; try again where there is a newer checkpoint by now"
            )


def open_streams(
    directory: Path, members: Sequence[int], replay: Mapping, prefetch: Mapping | None
) -> Streams:
    """Look at members' streams.

    Args:
        replay, prefetch: the checkpoint's states of the whole `Replay` and its `Prefetcher`.

    Raises:
        UsageError: there is no replay.
    """
    file, members = directory / LAYOUT_FILE, list(members)
    if not file.is_file():
        raise UsageError(f"{file} is missing; the run cannot go on without its replay")
    drawn = None
    if prefetch is not None:
        drawn = tuple(np.array(prefetch[name], np.int64)[members] for name in ("env", "start"))
    return Streams(
        directory=directory,
        layout=json.loads(file.read_text()),
        members=members,
        written=np.array(replay["written"], np.int64)[members],
        drawn=drawn,
    )


def check_alike(sources: Sequence[Streams]) -> None:
    """Raise UsageError unless all replays have the same layout but for their members."""
    first, *others = ({**source.layout, "members": 0} for source in sources)
    for source, layout in zip(sources[1:], others, strict=True):
        if layout != first:
            raise UsageError(
                f"the replays in {sources[0].directory} and {source.directory} are laid out "
                f"differently: {first} and {layout}"
            )


def copy_streams(sources: Sequence[Streams], target: Path) -> None:
    """Write a replay of all members of the sources, in order, to a new directory.

    What was never written takes no space there either.

    Raises:
        UsageError: a file is damaged, or the run went on so far meanwhile that records of the
            checkpoint are overwritten.
    """
    layout = sources[0].layout | {"members": sum(len(source.members) for source in sources)}
    target.mkdir()
    for key in layout["entries"]:
        with open(entry_file(target, key), "wb") as file:
            file.truncate(array_bytes(layout, key))
            stream = 0
            for source in sources:
                _copy_entry(source, key, file, stream)
                stream += source.slots.size
            file.flush()
            os.fsync(file.fileno())
    # Read after the data: it tells of every record that can have come between.
    marks = [source.high_water() for source in sources]
    for source, high_water in zip(sources, marks, strict=True):
        source.check_intact(high_water)
    np.concatenate(marks).tofile(target / HIGH_WATER_FILE)
    (target / LAYOUT_FILE).write_text(json.dumps(layout, indent=1))


def _copy_entry(source: Streams, key: str, file: BinaryIO, stream: int) -> None:
    """Copy one entry's records to `file`, the first member's to stream number `stream` there."""
    path, layout = entry_file(source.directory, key), source.layout
    record, envs = _record_bytes(layout, key), layout["envs"]
    ring = layout["slots"] * record
    with open(path, "rb") as old:
        for (index, env), slots in np.ndenumerate(source.slots):
            old.seek((source.members[index] * envs + env) * ring)
            file.seek((stream + index * envs + env) * ring)
            left = int(slots) * record
            while left:
                chunk = old.read(min(left, CHUNK))
                if not chunk:
                    raise UsageError(f"{path} is damaged: it ends where records should be")
                file.write(chunk)
                left -= len(chunk)


def _record_bytes(layout: dict, key: str) -> int:
    records = layout["members"] * layout["envs"] * layout["slots"]
    return array_bytes(layout, key) // records
