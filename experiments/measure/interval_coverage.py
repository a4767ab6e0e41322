"""Measure how often a nominal 95% bootstrap interval of a mean covers it, by the number of runs.

  python experiments/measure/interval_coverage.py > coverage.json

Scores are normally distributed. Intervals are those of `report.scores.statistics`, percentiles of
resampled means.
"""

import datetime
import json

import numpy as np
import scipy
from scipy.stats import bootstrap

from dreamer_jax.report.scores.statistics import CONFIDENCE, RESAMPLES

TRIALS = 4_000


def coverage(runs: int) -> float:
    """Return the share of trials whose interval holds the true mean."""
    rng = np.random.default_rng(runs)
    result = bootstrap(
        (rng.normal(size=(TRIALS, runs)),),
        np.mean,
        n_resamples=RESAMPLES,
        batch=100,
        axis=-1,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=rng,
    )
    low, high = result.confidence_interval
    return float(np.mean((low <= 0) & (high >= 0)))


if __name__ == "__main__":
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    rows = {runs: coverage(runs) for runs in (2, 3, 5, 10)}
    print(
        json.dumps({"date": date, "scipy": scipy.__version__, "trials": TRIALS, "coverage": rows})
    )
