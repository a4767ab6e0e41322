"""The replay's records by stream and number, whichever slots they lie in, on disk or in memory."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dreamer_jax.replay import layout as replay_storage
from dreamer_jax.replay.space import Space, open_high_water


class Rings:
    """A ring of slots per stream and entry: record t lies in slot t % slots, in place of t - slots.

    Where a method takes members, environments and records, these are arrays of int64 that broadcast
    to one shape [*K].
    """

    def __init__(self, layout: Mapping, directory: Path | None):
        """Allocates lazily, or opens what `directory` holds.

        Args:
            layout: of `replay_storage.make_layout`; directory: for the files, None for memory.

        Raises:
            ValueError: `directory` holds another layout.
            OSError: the disk has less space than full rings need.
        """
        self._slots = layout["slots"]
        self._storage = replay_storage.allocate(layout, directory)
        self._space = Space(layout, directory)
        self._high_water = open_high_water(layout, directory)
        # Indexing a memory map gives a memory map each time, which takes long to make.
        self._arrays = {key: np.asarray(array) for key, array in self._storage.items()}

    @property
    def gone(self) -> np.ndarray:
        """The records before these are overwritten, [M, E] int64; may be negative."""
        return self._high_water - self._slots

    def write(
        self,
        member: np.ndarray,
        env: np.ndarray,
        record: np.ndarray,
        values: Mapping[str, np.ndarray],
    ) -> None:
        """Writes one record to each of K streams.

        Args:
            values: an array [K, *shape] per key.

        Raises:
            OSError: the disk is full; nothing has been written.
        """
        self._check_open()
        self._space.reserve(int(record.max(initial=-1)) + 1)
        # Before the data, so that neither a gather in another thread nor the next process ever
        # trusts a half-written slot.
        self._high_water[member, env] = np.maximum(self._high_water[member, env], record + 1)
        for key, array in self._arrays.items():
            array[member, env, record % self._slots] = values[key]

    def read(
        self, key: str, member: np.ndarray | int, env: np.ndarray | int, record: np.ndarray
    ) -> np.ndarray:
        """A copy of one entry of records, [*K, *shape]."""
        return self._arrays[key][member, env, record % self._slots]

    def mark_last(
        self, member: np.ndarray, env: np.ndarray, record: np.ndarray, is_last: np.ndarray | bool
    ) -> None:
        """Changes the mark `is_last` of records that have been written."""
        self._arrays["is_last"][member, env, record % self._slots] = is_last

    def gather(
        self, member: np.ndarray, env: np.ndarray, record: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Copies records, which may go on in another thread while `write` is called.

        Returns:
            A new array [*K, *shape] per key.

        Raises:
            RuntimeError: one of them has been overwritten.
        """
        self._check_open()
        envs = self._high_water.shape[1]
        row = (member * envs + env) * self._slots + record % self._slots
        batch = {
            key: array.reshape(-1, *array.shape[3:]).take(row, axis=0)
            for key, array in self._arrays.items()
        }
        # After the copy: what was overwritten meanwhile counts.
        if np.any(record < self.gone[member, env]):
            raise RuntimeError("replay indices are too old: their records have been overwritten")
        return batch

    def clear(self) -> None:
        """Forgets whatever was written before."""
        self._high_water[:] = 0

    def flush(self) -> None:
        """Has what is in the files written to disk; may run in another thread."""
        replay_storage.sync((*self._storage.values(), self._high_water))

    def close(self) -> None:
        """Flushes and lets go of the arrays; the rings cannot be used afterwards."""
        self.flush()
        self._storage, self._arrays = {}, {}
        self._high_water = np.array(self._high_water)

    def _check_open(self) -> None:
        if not self._arrays:
            raise RuntimeError("the replay has been closed")
