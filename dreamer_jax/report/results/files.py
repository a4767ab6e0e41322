"""Results for other programs: tables as CSV, results.json, and the JSON of marl-eval's notebooks.

docs/evaluation.md describes them. Their keys do not change; new ones may be added.
"""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamer_jax import __version__
from dreamer_jax.files import replacing
from dreamer_jax.report.results.accept import Verdict
from dreamer_jax.report.results.runs import Run, by_variant
from dreamer_jax.report.results.tables import Table
from dreamer_jax.report.scores.published import suite_of
from dreamer_jax.report.scores.score import METRIC

SCHEMA = 1  # of results.json; raised if the meaning of a key changes
COLUMNS = (
    "run",
    "task",
    "variant",
    "member",
    "seed",
    "state",
    "progress",
    "env_step",
    "frame",
    "update",
    "score",
    "score_frame",
    "normalized_score",
    "train_return",
    "skipped_updates",
    "env_faults",
    "resumes",
    "frozen",
)
EVALUATION_COLUMNS = ("run", "task", "variant", "member", "seed", "frame", METRIC)


def member_records(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return a record per member with the columns of results.csv; None where it has no value."""
    records = []
    for member in (member for run in runs for member in run.members):
        point, latest = member.score, member.latest
        known = {
            "run": member.run.name,
            "task": member.task,
            "variant": member.label,
            "member": member.number,
            "state": member.state,
            "progress": member.progress,
            "score": point and point.value,
            "score_frame": point and point.x,
            "normalized_score": member.normalized_score,
            "skipped_updates": latest.get("skipped_updates", 0),
            "resumes": member.run.resumes,
            "env_faults": latest.get("env_faults", 0),
            "frozen": latest.get("frozen", False),
        }
        records.append({name: known.get(name, latest.get(name)) for name in COLUMNS})
    return records


def evaluation_records(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return a record per evaluation of a member, with the columns of evaluations.csv."""
    return [
        {
            "run": member.run.name,
            "task": member.task,
            "variant": member.label,
            "member": member.number,
            "seed": member.seed,
            "frame": point.x,
            METRIC: point.value,
        }
        for run in runs
        for member in run.members
        for point in member.returns
    ]


def write_csv(records: Sequence[Mapping[str, Any]], columns: Sequence[str], path: Path) -> None:
    content = io.StringIO()
    writer = csv.DictWriter(content, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    _write(path, content.getvalue())


def write_json(
    runs: Sequence[Run],
    records: Sequence[Mapping[str, Any]],
    tables: Sequence[Table],
    verdicts: Sequence[Verdict],
    problems: Sequence[str],
    path: Path,
) -> None:
    """Write members with their settings and evaluations, all tables, verdicts and problems."""
    members = [member for run in runs for member in run.members]
    content = {
        "schema": SCHEMA,
        "version": __version__,
        "runs": [
            {
                "name": run.name,
                "path": str(run.path),
                "task": run.task,
                "state": run.state,
                "steps": run.steps,
                "members": len(run.members),
            }
            for run in runs
        ],
        "members": [
            {**record, "setting": member.setting, "evaluations": [list(p) for p in member.returns]}
            for record, member in zip(records, members, strict=True)
        ],
        "tables": {table.name: list(table.rows) for table in tables},
        "accept": [verdict._asdict() for verdict in verdicts],
        "problems": list(problems),
    }
    _write(path, json.dumps(content) + "\n")


def write_marl_eval(runs: Sequence[Run], path: Path) -> None:
    """Write environment > task > algorithm > seed > step, as marl-eval and its readers expect."""
    content: dict[str, Any] = {}
    for task, variants in by_variant(runs).items():
        environment = content.setdefault(suite_of(task) or task.partition(":")[0], {})
        for label, members in variants.items():
            seeds = environment.setdefault(task, {}).setdefault(label, {})
            for member in members:
                if not member.returns:
                    continue
                record = {
                    f"step_{index}": {"step_count": int(point.x), METRIC: [point.value]}
                    for index, point in enumerate(member.returns)
                }
                record["absolute_metrics"] = {METRIC: [member.score.value]}
                name = f"seed_{member.seed}"
                seeds[name if name not in seeds else f"{name}_{member.run.name}"] = record
    _write(path, json.dumps(content) + "\n")


def _write(path: Path, content: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(content, encoding="utf-8", errors="backslashreplace")
