"""One line of metrics.jsonl: what a row holds, how it is written and read back."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROW_KEYS = ("member", "seed", "env_step", "frame", "update")
HYPER = "hyper/"  # begins the key of a hyperparameter that members of the run differ in


def encode_row(row: Mapping[str, Any]) -> bytes:
    """One line of metrics.jsonl: strict JSON, `ROW_KEYS` first, newline at the end.

    Raises:
      ValueError: a key of `ROW_KEYS` is missing or not a whole number, or a value is not a scalar,
        a string or None.
    """
    missing = [key for key in ROW_KEYS if key not in row]
    if missing:
        raise ValueError(f"metrics row misses {missing}; it has {list(row)}")
    head = {key: _scalar(key, row[key]) for key in ROW_KEYS}
    for key, value in head.items():
        if type(value) is not int:
            raise ValueError(f"metrics row: {key!r} must be a whole number, not {row[key]!r}")
    tail = {key: _scalar(key, value) for key, value in row.items() if key not in head}
    return (json.dumps(head | tail, allow_nan=False) + "\n").encode()


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """All rows of a metrics.jsonl, without a last line that a crash has torn.

    Raises:
      ValueError: another line is not a JSON object; the message names the line.
    """
    rows = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}, line {number}: not a JSON object")
            rows.append(row)
    return rows


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
