"""Make work directories of the evaluations in experiments/results, to draw them again.

  python experiments/measure/redraw.py --runs='dmc_*,proprio_*,atari_boxing' --to=runs/shipped
  dreamer-jax report --runs=runs/shipped --out=report

They hold returns by frames, and nothing else of the runs; an agent step counts as a frame.
"""

import argparse
import csv
import json
from collections import defaultdict
from fnmatch import fnmatch
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"


def read_evaluations() -> dict[str, list[dict[str, str]]]:
    """Return the rows of each run in the results' tables of evaluations."""
    runs = defaultdict(list)
    for table in sorted(RESULTS.glob("*_eval.csv")):
        with open(table, newline="") as file:
            for row in csv.DictReader(file):
                if "run" in row:
                    runs[row["run"]].append(row)
    return runs


def write_run(path: Path, rows: list[dict[str, str]]) -> None:
    """Write what `dreamer-jax report` reads of a run: its config and its metrics."""
    seeds = sorted({int(row["seed"]) for row in rows})
    steps = max(int(row["frame"]) for row in rows)
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps({"task": rows[0]["task"], "steps": steps}))
    with open(path / "metrics.jsonl", "w") as file:
        for row in sorted(rows, key=lambda row: int(row["frame"])):
            seed, frame = int(row["seed"]), int(row["frame"])
            head = {"member": seeds.index(seed), "seed": seed, "env_step": frame, "frame": frame}
            content = {**head, "update": 0, "eval_return": float(row["eval_return"])}
            file.write(json.dumps(content) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", required=True, help="patterns of names in the column 'run'")
    parser.add_argument("--to", required=True, type=Path, help="folder for the work directories")
    args = parser.parse_args()
    evaluations = read_evaluations()
    patterns = args.runs.split(",")
    names = [name for name in evaluations if any(fnmatch(name, p) for p in patterns)]
    if not names:
        parser.error(f"no run matches {args.runs!r}; there are {', '.join(evaluations)}")
    for name in names:
        write_run(args.to / name, evaluations[name])
