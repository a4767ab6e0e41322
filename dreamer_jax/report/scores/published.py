"""Published scores and curves by task, and the normalisations that make tasks comparable.

data/README.md has the sources and the convention of the figures.
"""

import csv
import functools
from collections.abc import Mapping
from importlib import resources
from typing import NamedTuple

import numpy as np

from dreamer_jax.report.scores.statistics import mean, median

ATARI, DMC = "atari_scores.csv", "dmc_scores.csv"
# Columns of the tables of scores, with their names for readers. The first of each is the one that
# differences refer to.
METHODS = {
    ATARI: {
        "dreamerv2": "DreamerV2",
        "dreamerv2_schedules": "DreamerV2 (schedules)",
        "iqn": "IQN",
        "rainbow": "Rainbow",
        "c51": "C51",
        "dqn": "DQN",
    },
    DMC: {
        "dreamer_v2_last5": "DreamerV2, 2M",
        "dreamer_v2_at1M": "DreamerV2, 1M",
        "dreamer_v1_last5": "DreamerV1, 3M to 5M",
        "dreamer_v1_at1M": "DreamerV1, 1M",
        "planet_1e6": "PlaNet, 1M",
        "slac_3e6": "SLAC, 3M",
        "d4pg_1e8": "D4PG, 100M",
        "a3c_proprio_1e8": "A3C from the state, 100M",
    },
}


class Suite(NamedTuple):
    """Tasks that are averaged with each other."""

    title: str
    unit: str  # of normalised scores
    scores: str | None = None  # file of published scores
    curves: str | None = None


SUITES = {
    "atari": Suite("Atari", "gamer-normalised score", ATARI, "atari_curves.csv"),
    "dmc": Suite("DeepMind Control from pixels", "return / 1000", DMC, "dmc_vision_curves.csv"),
    "dmc_proprio": Suite("DeepMind Control from the state", "return / 1000"),
    "embedded": Suite("Embedded tasks", "0: random play, 1: best possible"),
}
# Returns of random play and the best possible ones.
EMBEDDED = {"catch": (-0.6, 1.0), "reach": (7.3, 28.1)}


class References(NamedTuple):
    """Scores that normalisation refers to; the record is known for Atari alone."""

    random: float
    gamer: float  # the best possible one, where there is no human gamer
    record: float | None = None


class Band(NamedTuple):
    """A published curve: the mean and the range of its runs at milestones."""

    frames: np.ndarray  # [T]
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    seeds: int


def suite_of(task: str) -> str | None:
    """Return the suite of a task such as 'atari:pong'; None if it has none."""
    head = task.partition(":")[0]
    return "embedded" if task in EMBEDDED else head if head in SUITES else None


def published_scores(task: str) -> dict[str, float]:
    """Return the published final scores of a task by method; empty if there are none."""
    suite = SUITES.get(suite_of(task) or "")
    if suite is None or suite.scores is None:
        return {}
    row = _table(suite.scores).get(_key(task), {})
    return {
        name: float(row[column])
        for column, name in METHODS[suite.scores].items()
        if row.get(column)
    }


def published_curve(task: str) -> Band | None:
    """Return DreamerV2's published curve of a task; None if there is none."""
    suite = SUITES.get(suite_of(task) or "")
    rows = _curves(suite.curves).get(_key(task)) if suite and suite.curves else None
    if not rows:
        return None
    columns = ("frame", "mean", "min", "max")
    return Band(*(np.array([float(r[c]) for r in rows]) for c in columns), int(rows[0]["seeds"]))


def references(task: str) -> References | None:
    """Return the scores that a task's normalisation refers to; None if there are none."""
    suite = suite_of(task)
    if suite == "embedded":
        return References(*EMBEDDED[task])
    if suite in ("dmc", "dmc_proprio"):
        return References(0.0, 1000.0)
    row = _table(ATARI).get(_key(task)) if suite == "atari" else None
    return row and References(*(float(row[name]) for name in ("random", "human", "record")))


def normalize(task: str, score: float) -> float | None:
    """Return a score on the scale of its suite (`Suite.unit`); None if the task has none."""
    known = references(task)
    return known and (score - known.random) / (known.gamer - known.random)


def record_normalize(task: str, score: float) -> float | None:
    """Return a score between random play, 0, and the human record, 1; None if there is none."""
    known = references(task)
    if known is None or known.record is None:
        return None
    return (score - known.random) / (known.record - known.random)


class Aggregates(NamedTuple):
    """The four aggregates over Atari games in Table 1 of Hafner et al. 2021."""

    gamer_median: float
    gamer_mean: float
    record_mean: float
    clipped_record_mean: float


def aggregate_atari(scores: Mapping[str, float]) -> Aggregates:
    """Aggregate scores by task, each the mean over the runs of a game."""
    gamer = [np.array([normalize(task, score)]) for task, score in scores.items()]
    record = [np.array([record_normalize(task, score)]) for task, score in scores.items()]
    clipped = [np.minimum(x, 1) for x in record]
    values = (median(*gamer), mean(*gamer), mean(*record), mean(*clipped))
    return Aggregates(*map(float, values))


def atari_methods() -> dict[str, dict[str, float]]:
    """Return the published scores of each method by task, all 55 games."""
    rows = _table(ATARI).values()
    return {
        name: {f"atari:{row['game']}": float(row[column]) for row in rows}
        for column, name in METHODS[ATARI].items()
    }


def _key(task: str) -> str:
    """Return the name of a game or task without underscores, which names of games vary in."""
    return task.partition(":")[2].replace("ball_in_cup", "cup").replace("_", "")


@functools.cache
def _table(file: str) -> dict[str, dict[str, str]]:
    """Return the rows of a table of scores by `_key`."""
    rows = _read(file)
    return {_key(f":{row.get('game') or row.get('task')}"): row for row in rows}


@functools.cache
def _curves(file: str) -> dict[str, list[dict[str, str]]]:
    curves: dict[str, list[dict[str, str]]] = {}
    for row in _read(file):
        curves.setdefault(_key(f":{row['task']}"), []).append(row)
    return curves


def _read(file: str) -> list[dict[str, str]]:
    text = resources.files(__package__).joinpath("data", file).read_text()
    return list(csv.DictReader(text.splitlines()))
