"""Disk space and history of a replay's memory-mapped files.

A memory map that meets a full disk kills the process (SIGBUS), and one that has been written on
does not show what its slots held before. So space is taken from the file system before a record
is written, and a file beside the arrays says how far writing has ever gone.
"""

import math
import os
from pathlib import Path

import numpy as np

from dreamer_jax.files import replacing
from dreamer_jax.replay.layout import array_shape, entry_file

HIGH_WATER_FILE = "high_water.i64"
CHUNK = 16 * 2**20  # bytes taken at a time


class Space:
    """Takes disk space for the records of all streams, some ahead of their writing."""

    def __init__(self, layout: dict, directory: Path | None):
        self._layout = layout
        self._directory = directory
        # Where the system cannot reserve space, a full disk still ends the process.
        enabled = directory is not None and hasattr(os, "posix_fallocate")
        self._reserved = 0 if enabled else layout["slots"]

    def reserve(self, records: int) -> None:
        """Make sure that the first `records` slots of every stream can be written.

        Raises:
            OSError: the disk is full; nothing was lost.
        """
        records = min(records, self._layout["slots"])
        if records <= self._reserved:
            return
        stop = min(self._layout["slots"], max(records, self._reserved + self._chunk()))
        for key, entry in self._layout["entries"].items():
            self._extend(key, math.prod(entry["shape"]) * np.dtype(entry["dtype"]).itemsize, stop)
        self._reserved = stop

    def _chunk(self) -> int:
        streams = self._layout["members"] * self._layout["envs"]
        record = sum(
            math.prod(entry["shape"]) * np.dtype(entry["dtype"]).itemsize
            for entry in self._layout["entries"].values()
        )
        return max(1, CHUNK // (streams * record))

    def _extend(self, key: str, record: int, stop: int) -> None:
        members, envs, slots = array_shape(self._layout, key)[:3]
        path = entry_file(self._directory, key)
        start, size = self._reserved * record, (stop - self._reserved) * record
        with open(path, "r+b") as file:
            for stream in range(members * envs):
                try:
                    os.posix_fallocate(file.fileno(), stream * slots * record + start, size)
                except OSError as error:
                    message = f"no room for the next steps of the replay ({error.strerror})"
                    raise OSError(error.errno, message, str(path)) from error


def open_high_water(layout: dict, directory: Path | None) -> np.ndarray:
    """[M, E] int64, the largest number of records that was ever written to each stream's ring."""
    shape = (layout["members"], layout["envs"])
    if directory is None:
        return np.zeros(shape, np.int64)
    path = directory / HIGH_WATER_FILE
    if not path.exists():
        with replacing(path) as new:
            new.write_bytes(bytes(8 * math.prod(shape)))
    return np.memmap(path, np.int64, "r+", shape=shape)
