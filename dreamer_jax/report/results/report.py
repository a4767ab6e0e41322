"""Write a whole report of runs into a directory."""

import math
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamer_jax.report.results.accept import Threshold, Verdict, judge
from dreamer_jax.report.results.figures import DIAGNOSTICS, all_pictures
from dreamer_jax.report.results.files import (
    COLUMNS,
    EVALUATION_COLUMNS,
    evaluation_records,
    member_records,
    write_csv,
    write_json,
    write_marl_eval,
)
from dreamer_jax.report.results.page import write_page
from dreamer_jax.report.results.runs import Problems, read_runs
from dreamer_jax.report.results.signs import signs_table
from dreamer_jax.report.results.tables import all_tables
from dreamer_jax.report.scores.score import METRIC


def write_report(
    paths: Sequence[str | Path],
    out: str | Path,
    *,
    accept: Sequence[Threshold] = (),
    scored_at: float = math.inf,
    defaults: Mapping[str, Any],
    ignored: Collection[str],
) -> tuple[list[Verdict], Problems]:
    """Write index.html, figures/, two tables as CSV, results.json and marl_eval.json.

    Args:
        paths: work directories, or folders of them; they are only read.
        out: the directory of the report, made if it does not exist.
        accept: thresholds to judge the runs by.
        scored_at, defaults, ignored: see `read_runs`.

    Returns:
        The verdicts, and a message for everything that could not be read.

    Raises:
        UsageError: a path does not exist, or a threshold names an unknown metric.
    """
    keys = [METRIC, *DIAGNOSTICS]
    named = {"scored_at": scored_at, "defaults": defaults, "ignored": ignored}
    runs, problems = read_runs(paths, keys, **named)
    verdicts = judge(runs, accept)
    out = Path(out).expanduser()
    figures = out / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    tables, pictures = [*all_tables(runs), *signs_table(runs)], all_pictures(runs)
    records = member_records(runs)
    for picture in pictures:
        picture.save(figures)
    write_csv(records, COLUMNS, out / "results.csv")
    write_csv(evaluation_records(runs), EVALUATION_COLUMNS, out / "evaluations.csv")
    write_json(runs, records, tables, verdicts, problems, out / "results.json")
    write_marl_eval(runs, out / "marl_eval.json")
    write_page(runs, tables, pictures, verdicts, problems, out / "index.html")
    return verdicts, problems
