"""Statistics over the members of a sweep, and the config that they share."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from dreamer_jax.metrics import HYPER
from dreamer_jax.report.metrics_log import ROW_KEYS

FROZEN = "frozen"  # true in the rows of a member that is no longer updated


def interquartile_mean(values: Sequence[float]) -> float:
    """Return the mean without the lowest and highest floor(n / 4) of n values.

    Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice".

    Raises:
        ValueError: `values` is empty.
    """
    if not values:
        raise ValueError("the interquartile mean of no values is not defined")
    cut = len(values) // 4
    return fmean(sorted(values)[cut : len(values) - cut])


STATISTICS = {"mean": fmean, "iqm": interquartile_mean, "min": min, "max": max}


def aggregate(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return statistics over the rows that members wrote together.

    Args:
        rows: at least one row of metrics.jsonl, all of the same env step.

    Returns:
        `env_step`, `frame` and `update`; for each metric that is a number in some row
        `<metric>/mean`, `/iqm`, `/min` and `/max` over the members that have it, frozen ones
        included; and `members_frozen`, the number of frozen members, if rows have `frozen`.
    """
    record = {key: rows[0][key] for key in ("env_step", "frame", "update")}
    metrics = dict.fromkeys(key for row in rows for key in row)
    for metric in metrics:
        values = [row[metric] for row in rows if type(row.get(metric)) in (int, float)]
        if metric not in ROW_KEYS and not metric.startswith(HYPER) and values:
            record |= {f"{metric}/{name}": fn(values) for name, fn in STATISTICS.items()}
    if FROZEN in metrics:
        record["members_frozen"] = sum(bool(row.get(FROZEN)) for row in rows)
    return record


def common_values(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the entries on which all nested dicts agree, without empty dicts."""
    common = {}
    for key in configs[0]:
        first, *others = values = [config[key] for config in configs if key in config]
        if len(values) == len(configs):
            if all(isinstance(value, Mapping) for value in values):
                if nested := common_values(values):
                    common[key] = nested
            elif all(other == first for other in others):
                common[key] = first
    return common
