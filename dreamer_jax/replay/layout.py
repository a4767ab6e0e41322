"""The replay's arrays: their layout, and where they live (sparse files, or memory)."""

import errno
import json
import math
import os
import shutil
import urllib.parse
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from dreamer_jax.errors import suggest
from dreamer_jax.files import replacing

Spec = Mapping[str, tuple[tuple[int, ...], DTypeLike]]

FLAGS = ("is_first", "is_last", "is_terminal")
LAYOUT_FILE = "layout.json"


def check_spec(spec: Spec) -> None:
    """ValueError unless `spec` has a scalar reward, scalar bool flags, and no empty entry."""
    missing = [key for key in ("reward", *FLAGS) if key not in spec]
    if missing:
        raise ValueError(f"replay spec lacks {missing}, it has {sorted(spec)}")
    for key, (shape, dtype) in spec.items():
        if any(int(size) < 1 for size in shape) or np.dtype(dtype).hasobject:
            raise ValueError(
                f"replay entry {key!r} has shape {tuple(shape)} and dtype {np.dtype(dtype)}: "
                "every axis must be at least 1 and the dtype of fixed size"
            )
    for key in ("reward", *FLAGS):
        if tuple(spec[key][0]) != ():
            raise ValueError(f"replay entry {key!r} must be a scalar, got shape {spec[key][0]}")
    for key in FLAGS:
        if np.dtype(spec[key][1]) != np.bool_:
            raise ValueError(f"replay entry {key!r} must be bool, got {np.dtype(spec[key][1])}")


def stream_capacity(capacity: int, num_envs: int, length: int) -> int:
    """Records that one stream keeps, `capacity // num_envs`; ValueError if no sequence fits."""
    for name, value in (("capacity", capacity), ("num_envs", num_envs), ("length", length)):
        if value < 1:
            raise ValueError(f"replay {name} must be at least 1, got {value}")
    if capacity // num_envs < length:
        raise ValueError(
            f"replay capacity {capacity} over {num_envs} environments keeps "
            f"{capacity // num_envs} steps per environment, fewer than the sequence length {length}"
        )
    return capacity // num_envs


def make_layout(
    *, spec: Spec, num_members: int, num_envs: int, capacity: int, slack: int, length: int
) -> dict:
    """Describes the arrays as JSON data, after checking every number.

    Args:
        spec: shape and dtype of one record, per key.
        num_members: M.
        num_envs: E.
        capacity: records kept per member, shared evenly by its environments.
        slack: records per stream that may be written between two checkpoints, at least 1.
        length: records in a sequence; only checked against the capacity.

    Returns:
        A dict with `members`, `envs`, `stream_capacity`, `slots` and `entries`, where
        slots = stream_capacity + slack and each array is [M, E, slots, *shape].

    Raises:
        ValueError: a number is out of range or the spec lacks an entry.
    """
    check_spec(spec)
    if num_members < 1:
        raise ValueError(f"replay needs at least 1 member, got {num_members}")
    kept = stream_capacity(capacity, num_envs, length)
    if slack < 1:
        raise ValueError(f"replay slack must be at least 1 step, got {slack}")
    entries = {
        key: {"shape": [int(size) for size in shape], "dtype": np.dtype(dtype).str}
        for key, (shape, dtype) in sorted(spec.items())
    }
    return {
        "members": int(num_members),
        "envs": int(num_envs),
        "stream_capacity": int(kept),
        "slots": int(kept + slack),
        "entries": entries,
    }


def check_step(step: Mapping[str, np.ndarray], mask: np.ndarray, layout: dict) -> None:
    """ValueError unless every array of `step`, and `mask` [M, E], fits the layout."""
    entries = layout["entries"]
    for key in sorted(step.keys() ^ entries.keys()):
        if key in entries:
            raise ValueError(f"replay step lacks {key!r}, it has {sorted(step)}")
        raise ValueError(f"replay keeps {sorted(entries)}, not {key!r}.{suggest(key, entries)}")
    streams = (layout["members"], layout["envs"])
    if mask.shape != streams:
        raise ValueError(f"replay mask has shape {mask.shape}, expected {streams}")
    for key, entry in entries.items():
        value, shape, dtype = step[key], (*streams, *entry["shape"]), np.dtype(entry["dtype"])
        if value.shape != shape or not np.can_cast(value.dtype, dtype, "same_kind"):
            raise ValueError(
                f"replay entry {key!r} is {value.dtype} {value.shape}, expected {dtype} {shape}"
            )


def array_shape(layout: dict, key: str) -> tuple[int, ...]:
    """The shape [M, E, slots, *record] of one entry's array."""
    leading = (layout["members"], layout["envs"], layout["slots"])
    return (*leading, *layout["entries"][key]["shape"])


def array_bytes(layout: dict, key: str) -> int:
    """The size of one entry's array in bytes."""
    itemsize = np.dtype(layout["entries"][key]["dtype"]).itemsize
    return math.prod(array_shape(layout, key)) * itemsize


def total_bytes(layout: dict) -> int:
    """The size of all arrays in bytes, when every slot has been written."""
    return sum(array_bytes(layout, key) for key in layout["entries"])


def plan_bytes(
    spec: Spec, num_members: int, num_envs: int, capacity: int, slack: int, length: int
) -> int:
    """Bytes a replay takes once every slot is written; arguments and errors of `make_layout`."""
    return total_bytes(
        make_layout(
            spec=spec,
            num_members=num_members,
            num_envs=num_envs,
            capacity=capacity,
            slack=slack,
            length=length,
        )
    )


def allocate(layout: dict, directory: Path | None) -> dict[str, np.ndarray]:
    """Makes the arrays, or opens those that `directory` already holds.

    Both kinds are lazy: disk or memory is taken as slots are first written.

    Args:
        layout: from `make_layout`.
        directory: where one file per entry and `layout.json` go; None keeps them in memory.

    Returns:
        An array [M, E, slots, *shape] per key, zero where never written.

    Raises:
        ValueError: `directory` holds a replay of another layout, or a damaged one.
        OSError: the disk has less space than the full replay needs.
    """
    if directory is None:
        return {
            key: np.zeros(array_shape(layout, key), entry["dtype"])
            for key, entry in layout["entries"].items()
        }
    directory = Path(directory).resolve()
    exists = _check_existing(layout, directory)
    _check_disk(layout, directory)
    directory.mkdir(parents=True, exist_ok=True)
    arrays = {
        key: np.memmap(
            entry_file(directory, key),
            dtype=entry["dtype"],
            mode="r+" if exists else "w+",
            shape=array_shape(layout, key),
        )
        for key, entry in layout["entries"].items()
    }
    if not exists:
        # Last: a layout file is only ever found beside complete array files.
        with replacing(directory / LAYOUT_FILE) as file:
            file.write_text(json.dumps(layout, indent=1))
    return arrays


def sync(arrays: Iterable[np.ndarray]) -> None:
    """Has the files of memory-mapped arrays written to disk; others are left out."""
    for array in arrays:
        if isinstance(array, np.memmap):
            # Unlike `array.flush`, this lets other threads run meanwhile.
            with open(array.filename, "rb") as file:
                os.fsync(file.fileno())


def entry_file(directory: Path, key: str) -> Path:
    """The file of one entry's array."""
    return directory / (urllib.parse.quote(key, safe="") + ".bin")


def _check_existing(layout: dict, directory: Path) -> bool:
    """Whether `directory` holds this replay; ValueError if it holds another one."""
    file = directory / LAYOUT_FILE
    if not file.exists():
        return False
    found = json.loads(file.read_text())
    differences = _differences(found, layout)
    if differences:
        raise ValueError(
            f"the replay in {directory} has another layout: {'; '.join(differences)}. "
            "Use the settings it was made with, or another directory"
        )
    for key in layout["entries"]:
        path, expected = entry_file(directory, key), array_bytes(layout, key)
        size = path.stat().st_size if path.exists() else 0
        if size != expected:
            raise ValueError(f"{path} is damaged: {size} bytes, its layout needs {expected}")
    return True


def _differences(found: dict, asked: dict) -> list[str]:
    numbers = [key for key in asked if key != "entries"]
    pairs = [(key, found.get(key), asked[key]) for key in numbers]
    old, new = found.get("entries", {}), asked["entries"]
    pairs += [(f"entry {key!r}", old.get(key), new.get(key)) for key in sorted({*old, *new})]
    return [f"{name} is {was}, asked for {now}" for name, was, now in pairs if was != now]


def _check_disk(layout: dict, directory: Path) -> None:
    files = [entry_file(directory, key) for key in layout["entries"]]
    # 512 is the unit of st_blocks whatever the file system's own block size.
    taken = sum(file.stat().st_blocks * 512 for file in files if file.exists())
    needed = max(0, total_bytes(layout) - taken)
    mounted = next(path for path in (directory, *directory.parents) if path.exists())
    free = shutil.disk_usage(mounted).free
    if free < needed:
        raise OSError(
            errno.ENOSPC,
            f"the replay will need {needed} more bytes ({needed / 2**30:.1f} GiB) but {free} "
            f"({free / 2**30:.1f} GiB) are free; lower its capacity or use another disk",
            os.fspath(directory),
        )
