"""Thresholds on results, such as 'median(eval_return) >= 900', so that a sweep can be a test."""

import operator
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from dreamer_jax.errors import UsageError, lookup
from dreamer_jax.report.aggregates import interquartile_mean
from dreamer_jax.report.results.runs import Member, Run, by_variant
from dreamer_jax.report.scores.score import METRIC, is_number

STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "mean": statistics.fmean,
    "median": statistics.median,
    "iqm": interquartile_mean,
    "min": min,
    "max": max,
}
COMPARISONS = {">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt}
PATTERN = re.compile(r"\s*(\w+)\(\s*([\w/]+)\s*\)\s*(>=|<=|>|<)\s*(\S+)\s*")
# Names beside those of metrics.
DERIVED: dict[str, Callable[[Member], float | None]] = {
    METRIC: lambda member: member.score and member.score.value,
    "normalized_score": lambda member: member.normalized_score,
    "progress": lambda member: member.progress,
}


class Threshold(NamedTuple):
    """A condition that every variant of every task must meet."""

    text: str
    statistic: Callable[[Sequence[float]], float]  # over members
    metric: str
    compare: Callable[[float, float], bool]
    bound: float


class Verdict(NamedTuple):
    """The outcome of a threshold for a variant of a task."""

    threshold: str
    task: str
    variant: str
    value: float | None  # None if a member has no value
    n: int
    met: bool

    def __str__(self) -> str:
        value = "not known for every member" if self.value is None else f"{self.value:.6g}"
        word = "met" if self.met else "NOT MET"
        return f"{word}: {self.threshold}: {value} ({self.task}, {self.variant}, n = {self.n})"


def parse_threshold(text: str) -> Threshold:
    """Parse a condition 'STATISTIC(METRIC) OPERATOR NUMBER'.

    Raises:
        UsageError: it has another form, or an unknown statistic.
    """
    match = PATTERN.fullmatch(text)
    bound = _number(match[4]) if match else None
    if match is None or bound is None:
        raise UsageError(
            f"--accept={text!r} was given; allowed: a statistic ({', '.join(STATISTICS)}) of a "
            f"metric, an operator ({', '.join(COMPARISONS)}) and a number, as in "
            "'median(eval_return) >= 900'"
        )
    statistic = lookup(STATISTICS, match[1], "the statistic of --accept")
    return Threshold(text.strip(), statistic, match[2], COMPARISONS[match[3]], bound)


def judge(runs: Sequence[Run], thresholds: Sequence[Threshold]) -> list[Verdict]:
    """Return a verdict for every threshold, task and variant; a missing value meets none.

    Raises:
        UsageError: no member has a metric.
    """
    verdicts = []
    members = [member for run in runs for member in run.members]
    known = set(DERIVED).union(*(m.latest for m in members))
    for threshold in thresholds:
        if members:
            lookup(dict.fromkeys(known), threshold.metric, f"the metric of {threshold.text!r}")
        for task, variants in by_variant(runs).items():
            for label, group in variants.items():
                value = _value(threshold, group)
                met = value is not None and threshold.compare(value, threshold.bound)
                verdicts.append(Verdict(threshold.text, task, label, value, len(group), met))
    return verdicts


def _value(threshold: Threshold, members: Sequence[Member]) -> float | None:
    get = DERIVED.get(threshold.metric, lambda member: _latest(member.latest, threshold.metric))
    values = [get(member) for member in members]
    return None if None in values else threshold.statistic(values)


def _latest(latest: Mapping, metric: str) -> float | None:
    value = latest.get(metric)
    return float(value) if isinstance(value, bool) or is_number(value) else None


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if is_number(value) else None
