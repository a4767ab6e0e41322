"""Make work directories of the tables of evaluations beside this file, to draw them again.

  python experiments/results/redraw.py --runs='dmc_*,proprio_*,atari_boxing' --to=runs/shipped
  dreamer-jax report --runs=runs/shipped --out=report

They hold returns by frames, and nothing else of the runs; an agent step counts as a frame.
"""

import argparse
import csv
import json
from collections import defaultdict
from fnmatch import fnmatch
from pathlib import Path

from dreamer_jax.report.metrics_log import encode_row
from dreamer_jax.report.results.runs import BASE, CONFIG, METRICS

Row = dict[str, str]


def read_evaluations() -> dict[str, list[Row]]:
    """Return the rows of each run, of the tables that have a column 'run'."""
    runs = defaultdict(list)
    for table in sorted(Path(__file__).parent.glob("*_eval.csv")):
        with open(table, newline="") as file:
            for row in csv.DictReader(file):
                if "run" in row:
                    runs[row["run"]].append(row)
    return runs


def write_run(path: Path, rows: list[Row]) -> None:
    """Write what `dreamer-jax report` reads of a run: its config and its metrics."""
    config = {"task": rows[0]["task"], "steps": max(int(row["frame"]) for row in rows)}
    if rows[0]["variant"] != BASE:
        config["variant"] = rows[0]["variant"]  # keeps it apart from the task's other runs
    path.mkdir(parents=True)
    (path / CONFIG).write_text(json.dumps(config))
    with open(path / METRICS, "wb") as file:
        for row in sorted(rows, key=lambda row: int(row["frame"])):
            seed, frame = int(row["seed"]), int(row["frame"])
            head = {"member": seed, "seed": seed, "env_step": frame, "frame": frame, "update": 0}
            file.write(encode_row({**head, "eval_return": float(row["eval_return"])}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", required=True, help="patterns of names in the column 'run'")
    parser.add_argument("--to", required=True, type=Path, help="new folder for the directories")
    args = parser.parse_args()
    evaluations = read_evaluations()
    patterns = args.runs.split(",")
    names = [name for name in evaluations if any(fnmatch(name, p) for p in patterns)]
    if not names:
        parser.error(f"no run matches {args.runs!r}; there are {', '.join(evaluations)}")
    if args.to.exists():
        parser.error(f"{args.to} exists; --to must be a new folder")
    for name in names:
        write_run(args.to / name, evaluations[name])
