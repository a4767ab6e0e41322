"""One row out of the members' rows: what a sweep as a whole reports, and what its members share."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dreamer_jax.report.metrics_log import ROW_KEYS
from dreamer_jax.types import HYPER

FROZEN = "frozen"  # true in the rows of a member that takes no more updates


def interquartile_mean(values: Sequence[float]) -> float:
    """Mean without the lowest and the highest floor(n / 4) of n values (Agarwal et al. 2021).

    Raises:
      ValueError: there are no values.
    """
    if not values:
        raise ValueError("the interquartile mean of no values is not defined")
    cut = len(values) // 4
    return mean(sorted(values)[cut : len(values) - cut])


def mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


STATISTICS = {"mean": mean, "iqm": interquartile_mean, "min": min, "max": max}


def aggregate(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Statistics over members, of the rows that they wrote at one env step.

    Args:
      rows: at least one; see rows.py. Of several, what they say of the time is the first's.

    Returns:
      `env_step`, `frame` and `update`; for each metric that is a number in some row
      `<metric>/mean`, `/iqm`, `/min` and `/max` over the members that have it; `members_frozen`,
      the number of frozen members, where rows say that. A frozen member counts in the statistics.
    """
    time = {key: rows[0][key] for key in ("env_step", "frame", "update")}
    metrics = dict.fromkeys(key for row in rows for key in row)
    record = {}
    for metric in metrics:
        values = [row[metric] for row in rows if _is_number(row.get(metric))]
        if metric not in ROW_KEYS and not metric.startswith(HYPER) and values:
            record |= {f"{metric}/{name}": fn(values) for name, fn in STATISTICS.items()}
    if FROZEN in metrics:
        record["members_frozen"] = sum(bool(row.get(FROZEN)) for row in rows)
    return time | record


def common_values(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entries of nested dicts that all of them agree in; a dict left empty is left out."""
    first, *others = configs
    common = {}
    for key, value in first.items():
        values = [value, *(other.get(key, _ABSENT) for other in others)]
        if all(isinstance(value, Mapping) for value in values):
            value = common_values(values)
            if value:
                common[key] = value
        elif all(other == value for other in values):
            common[key] = value
    return common


_ABSENT = object()


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
