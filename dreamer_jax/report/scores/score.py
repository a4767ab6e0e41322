"""The score of a run: what its last evaluation says. docs/evaluation.md has the definition."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

METRIC = "eval_return"  # the metric that scores are made of
LARGEST = 1e100  # far beyond float32, and small enough to be added, squared and drawn


class Point(NamedTuple):
    """The value of a metric at a place on the x axis."""

    x: float  # frames, unless said otherwise
    value: float


Curve = Sequence[Point]  # ascending in x, one point per x, finite


def add_points(
    points: dict[str, dict[float, float]], row: Mapping[str, Any], keys: Iterable[str], x: str
) -> None:
    """Add a member's row to points by key and x; the last row of an x counts."""
    if not is_number(row.get(x)):
        return
    for key in keys:
        if key in row and is_number(row[key]):
            points.setdefault(key, {})[row[x]] = row[key]


def make_curve(points: Mapping[float, float]) -> Curve:
    """Return the values at places on the x axis as a curve."""
    return list(map(Point._make, sorted(points.items())))


def is_number(value: Any) -> bool:
    """Return whether a value is a number of a size that can be computed with, and no bool."""
    return type(value) in (int, float) and abs(value) <= LARGEST


def score(curve: Curve, at: float = math.inf) -> Point | None:
    """Return the last point at or before `at` frames, without smoothing; None if there is none.

    A run that ended, stopped or was frozen earlier keeps its last value. The frame of the point
    says how far the run had come.

    Args:
        curve: mean evaluation returns of a member, against frames.
        at: the frame of the comparison; the end of the run by default.
    """
    return next((point for point in reversed(curve) if point.x <= at), None)


def frames_to_reach(curve: Curve, threshold: float) -> float | None:
    """Return the frame of the first evaluation of at least `threshold`; None if there is none."""
    return next((point.x for point in curve if point.value >= threshold), None)
