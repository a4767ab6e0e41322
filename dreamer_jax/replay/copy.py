"""Copies of members' replays, taken from the files of runs that may still be writing."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dreamer_jax.errors import UsageError
from dreamer_jax.replay.layout import Layout
from dreamer_jax.replay.ring import (
    HIGH_WATER_FILE,
    LAYOUT_FILE,
    check_version,
    entry_name,
    intact,
    live_intact,
    member_directories,
    read_layout,
)
from dreamer_jax.replay.samplers import NOTHING

CHUNK = 16 * 2**20  # bytes read at a time


@dataclass(frozen=True)
class MemberReplay:
    """The files of one member's replay as of a checkpoint.

    The run may still be writing: the records that the checkpoint needs stay intact until the slack
    is used up.
    """

    directory: Path
    layout: Layout
    written: np.ndarray  # [E] int64, records added up to the checkpoint
    drawn: tuple[np.ndarray, np.ndarray] | None  # env, start [B] of the batch in flight then

    @property
    def slots(self) -> np.ndarray:
        """The number of slots, counted from the first, that the checkpoint may use, [E] int64."""
        return np.minimum(self.written, self.layout.slots)

    @property
    def nbytes(self) -> int:
        """The size of a copy in bytes."""
        return self.layout.step_nbytes * int(self.slots.sum())


def open_member(directory: Path, replay: Mapping, prefetch: Mapping | None) -> MemberReplay:
    """Open one member's replay.

    Args:
        directory: of the member, inside the replay's directory.
        replay: the member's record in the checkpoint's `Replay.state()`.
        prefetch: the member's record in its `Prefetcher.state()`.

    Raises:
        UsageError: a file is missing, or the replay is of an earlier version.
    """
    layout = _open(directory)
    drawn = prefetch and (np.array(prefetch["env"]), np.array(prefetch["start"]))
    return MemberReplay(directory, layout, np.array(replay["written"]), drawn)


def open_complete(directory: Path) -> MemberReplay:
    """Open everything in one member's replay, to which no run is writing; see `open_member`."""
    layout = _open(directory)
    written = np.fromfile(directory / HIGH_WATER_FILE, np.int64)
    return MemberReplay(directory, layout, written, None)


def _open(directory: Path) -> Layout:
    """Return the layout of a member's replay, all of whose files exist."""
    check_version(directory.parent)
    for file in (directory / LAYOUT_FILE, directory / HIGH_WATER_FILE):
        if not file.is_file():
            raise UsageError(f"{file} is missing; the run cannot be resumed without its replay")
    layout = read_layout(directory)
    for key in layout.entries:
        if not (directory / entry_name(key)).is_file():
            raise UsageError(f"{directory / entry_name(key)} is missing; the replay is damaged")
    return layout


def check_alike(members: Sequence[MemberReplay]) -> None:
    """Raise UsageError unless all members' replays have the same layout."""
    first, *others = members
    for other in others:
        if differences := first.layout.differences(other.layout):
            raise UsageError(
                f"the replays in {first.directory} and {other.directory} have different layouts: "
                f"{'; '.join(differences)}"
            )


def copy_members(members: Sequence[MemberReplay], target: Path) -> None:
    """Write a replay of the given members, in order, to a new directory.

    Slots that were never written take no space there either.

    Raises:
        UsageError: a file is damaged, or the run has meanwhile overwritten records that the
            checkpoint needs.
    """
    target.mkdir()
    directories = member_directories(target, range(len(members)))
    for member, directory in zip(members, directories, strict=True):
        copy_member(member, directory)


def copy_member(member: MemberReplay, directory: Path) -> None:
    """Write a member's replay to a new directory; see `copy_members`."""
    directory.mkdir()
    for key in member.layout.entries:
        _copy_entry(member, key, directory)
    # Read after the data, so that it covers every record written meanwhile.
    high_water = np.fromfile(member.directory / HIGH_WATER_FILE, np.int64)
    drawn = member.drawn if member.drawn and NOTHING not in member.drawn[1] else None
    if not (
        live_intact(member.layout, high_water, member.written)
        and (drawn is None or intact(member.layout, high_water, *drawn))
    ):
        raise UsageError(
            f"the replay in {member.directory} has moved on too far since the checkpoint: "
            "records that it needs are overwritten; try again once there is a newer checkpoint"
        )
    high_water.tofile(directory / HIGH_WATER_FILE)
    (directory / LAYOUT_FILE).write_text(member.layout.to_json())


def _copy_entry(member: MemberReplay, key: str, target: Path) -> None:
    source, record = member.directory / entry_name(key), member.layout.record_nbytes(key)
    stream = member.layout.slots * record
    with open(source, "rb") as old, open(target / source.name, "wb") as new:
        new.truncate(member.layout.envs * stream)
        for env, slots in enumerate(member.slots.tolist()):
            old.seek(env * stream)
            new.seek(env * stream)
            stop = env * stream + slots * record
            while (start := old.tell()) < stop:
                chunk = old.read(min(CHUNK, stop - start))
                if not chunk:
                    raise UsageError(f"{source} is damaged: it ends before its last record")
                new.write(chunk)
        new.flush()
        os.fsync(new.fileno())
