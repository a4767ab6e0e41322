"""Statistics over the runs of several tasks (Agarwal et al. 2021), by SciPy's bootstrap.

Scores are sequences by task, a number per run, normalised so that tasks can be averaged. Runs of
one task are the only ones that a bootstrap resamples among each other.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

# Below this number of runs no interval is drawn: a nominal 95% percentile interval of a mean covers
# it in 50% of cases with 2 runs, in 75% with 3, in 85% with 5 and in 90% with 10
# (experiments/measure/interval_coverage.py).
MIN_SEEDS = 5
CONFIDENCE = 0.95
RESAMPLES = 2_000

Scores = Mapping[str, Sequence[float]]  # by task, one per run
Statistic = Callable[..., np.ndarray]  # (*samples [..., runs of a task], axis=-1) -> [...]


def mean(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the mean over tasks of the mean over runs."""
    return np.mean([np.mean(x, axis) for x in samples], axis=0)


def median(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the median over tasks of the mean over runs."""
    return np.median([np.mean(x, axis) for x in samples], axis=0)


def iqm(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return the interquartile mean: without the lowest and highest quarter of all runs."""
    from scipy.stats import trim_mean

    return trim_mean(np.concatenate(samples, axis), 0.25, axis=axis)


def optimality_gap(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
    """Return how far runs are below a score of 1 on average; more than 1 counts as 1."""
    return 1 - mean(*(np.minimum(x, 1) for x in samples), axis=axis)


STATISTICS: dict[str, Statistic] = {
    "median": median,
    "iqm": iqm,
    "mean": mean,
    "optimality_gap": optimality_gap,
}


class Estimate(NamedTuple):
    """A statistic with its interval, if there are runs enough for one."""

    value: float
    low: float | None
    high: float | None
    tasks: int
    runs: int  # the fewest of a task


def estimate(statistic: Statistic, scores: Scores, seed: int = 0) -> Estimate:
    """Return a statistic of scores with its 95% interval, stratified by task.

    Args:
        statistic: one of `STATISTICS`, or another such function.
        scores: at least one task, with at least one run each.
        seed: of the bootstrap.
    """
    samples = [np.asarray(runs, float) for runs in scores.values()]
    return _estimate(statistic, samples, seed, len(samples))


def performance_profile(scores: Scores, thresholds: Sequence[float]) -> np.ndarray:
    """Return the share of runs whose score exceeds each threshold, averaged over tasks."""
    above = [np.greater.outer(np.asarray(r, float), thresholds).mean(0) for r in scores.values()]
    return np.mean(above, axis=0)


def probability_of_improvement(ours: Scores, others: Scores, seed: int = 0) -> Estimate:
    """Return how probably a run of `ours` beats one of `others`, averaged over common tasks.

    A tie counts one half.

    Raises:
        ValueError: there is no common task.
    """
    tasks = [task for task in ours if task in others]
    if not tasks:
        raise ValueError(f"no task is in both: {list(ours)} and {list(others)}")
    samples = [np.asarray(s[task], float) for s in (ours, others) for task in tasks]

    def probability(*samples: np.ndarray, axis: int = -1) -> np.ndarray:
        wins = []
        for x, y in zip(samples[: len(tasks)], samples[len(tasks) :], strict=True):
            difference = x[..., :, None] - y[..., None, :]
            wins.append((np.sign(difference) / 2 + 0.5).mean((-2, -1)))
        return np.mean(wins, axis=0)

    return _estimate(probability, samples, seed, len(tasks))


def interval(
    statistic: Statistic, samples: Sequence[np.ndarray], seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the 95% percentile intervals of a statistic, stratified by task.

    Args:
        statistic: one of `STATISTICS`, or another such function.
        samples: by task, each [..., runs] with at least two runs; intervals have the shape `...`.
        seed: of the bootstrap; all intervals are from the same resamples of runs.
    """
    from scipy.stats import bootstrap

    result = bootstrap(
        samples,
        statistic,
        n_resamples=RESAMPLES,
        batch=200,  # the resamples of 55 tasks with 10 runs take little memory
        vectorized=True,
        axis=-1,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(seed),
    )
    return result.confidence_interval


def _estimate(
    statistic: Statistic, samples: Sequence[np.ndarray], seed: int, tasks: int
) -> Estimate:
    fewest = min(map(len, samples))
    low = high = None
    if fewest >= MIN_SEEDS:
        low, high = map(float, interval(statistic, samples, seed))
    return Estimate(float(statistic(*samples)), low, high, tasks, fewest)
