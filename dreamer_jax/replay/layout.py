"""The sizes, shapes and dtypes of one member's replay arrays."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

Spec = Mapping[str, tuple[tuple[int, ...], DTypeLike]]

FLAGS = ("is_first", "is_last", "is_terminal")
SCALARS = ("reward", *FLAGS)


@dataclass(frozen=True)
class Layout:
    """The arrays of one member: one per entry, of shape [E, slots, *record]."""

    envs: int  # E, one stream of records each
    capacity: int  # live records per stream
    slots: int  # records that a stream has room for: the capacity and the slack
    entries: dict[str, tuple[tuple[int, ...], np.dtype]]  # shape and dtype of one record, by key

    @property
    def step_nbytes(self) -> int:
        """The size of one record of all entries in bytes."""
        return sum(map(self.record_nbytes, self.entries))

    @property
    def nbytes(self) -> int:
        """The size of all arrays in bytes once every slot has been written."""
        return self.envs * self.slots * self.step_nbytes

    def record_nbytes(self, key: str) -> int:
        """Return the size of one record of an entry in bytes."""
        shape, dtype = self.entries[key]
        return math.prod(shape) * dtype.itemsize

    def to_json(self) -> str:
        return json.dumps(self._fields(), indent=1)

    @classmethod
    def from_json(cls, text: str) -> "Layout":
        """Return the layout that `to_json` wrote."""
        fields = json.loads(text)
        entries = {
            key: (tuple(entry["shape"]), np.dtype(entry["dtype"]))
            for key, entry in fields.pop("entries").items()
        }
        return cls(**fields, entries=entries)

    def differences(self, other: "Layout") -> list[str]:
        """Describe what differs in `other`, each difference as "name: this -> other"."""
        mine, others = self._fields(), other._fields()
        old, new = mine.pop("entries"), others.pop("entries")
        pairs = [(name, mine[name], others[name]) for name in mine]
        pairs += [(f"entry {key!r}", old.get(key), new.get(key)) for key in sorted({*old, *new})]
        return [f"{name}: {this} -> {that}" for name, this, that in pairs if this != that]

    def _fields(self) -> dict:
        entries = {
            key: {"shape": list(shape), "dtype": dtype.str}
            for key, (shape, dtype) in self.entries.items()
        }
        return {**vars(self), "entries": entries}


def make_layout(*, spec: Spec, num_envs: int, capacity: int, slack: int, length: int) -> Layout:
    """Check the arguments and return the layout of one member's replay.

    Args:
        spec: shape and dtype of one record, per key.
        num_envs: E.
        capacity: records kept per member, shared evenly by its environments.
        slack: records per stream that may be written between two checkpoints, at least 1.
        length: records in a sequence; only checked against the capacity.
    """
    entries = _checked_entries(spec)
    numbers = {"capacity": capacity, "num_envs": num_envs, "length": length, "slack": slack}
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"replay {name} must be at least 1, got {value}")
    kept = int(capacity // num_envs)
    if kept < length:
        raise ValueError(
            f"replay capacity {capacity} over {num_envs} environments keeps {kept} steps per "
            f"environment, fewer than the sequence length {length}"
        )
    return Layout(envs=int(num_envs), capacity=kept, slots=kept + int(slack), entries=entries)


def _checked_entries(spec: Spec) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Return a spec sorted by key, with a scalar reward, scalar flags, and no empty entry."""
    missing = [key for key in SCALARS if key not in spec]
    if missing:
        raise ValueError(f"replay spec lacks {missing}, it has {sorted(spec)}")
    entries = {}
    for key, (shape, dtype) in sorted(spec.items()):
        entries[key] = shape, dtype = tuple(int(size) for size in shape), np.dtype(dtype)
        if any(size < 1 for size in shape) or dtype.hasobject:
            raise ValueError(
                f"replay entry {key!r} has shape {shape} and dtype {dtype}: every axis must be at "
                "least 1 and the dtype of fixed size"
            )
        if key in SCALARS and shape:
            raise ValueError(f"replay entry {key!r} must be a scalar, got shape {shape}")
        if key in FLAGS and dtype != np.bool_:
            raise ValueError(f"replay entry {key!r} must be bool, got {dtype}")
    return entries
