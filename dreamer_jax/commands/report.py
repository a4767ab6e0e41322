"""Make tables, figures and a page of runs, and check thresholds.

dreamer-jax report --runs=runs/catch --out=report
dreamer-jax report --runs runs/* --out=report --accept="median(eval_return) >= 0.9"

The runs may be finished, running, broken, or copied without their replay; they are only read. The
status is 1 if a threshold is not met, or was to be checked and something could not be read.
"""

import math
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from dreamer_jax.commands.flags import Command, Flags, whole_number

FRAME_HELP = "compare runs by their last evaluation at or before this frame, not by their last one"
RUNS_HELP = "work directories of runs, or folders that hold some"
ACCEPT_HELP = (
    "a threshold, as 'median(eval_return) >= 900': mean, median, iqm, min or max over the members "
    "of every variant and task, of a metric, normalized_score or progress; may be repeated"
)


def add_flags(flags: Flags) -> None:
    add = flags.add_argument
    add("--runs", nargs="+", required=True, action="extend", help=RUNS_HELP)
    add("--out", default="report", help="directory of the report; 'report' by default")
    add("--frame", type=whole_number(1), help=FRAME_HELP)
    add("--accept", action="append", default=[], help=ACCEPT_HELP)


def main(args: Namespace) -> None:
    """Write the report, and print what could not be read and the verdicts."""
    from dreamer_jax.report.results.accept import parse_threshold

    thresholds = [parse_threshold(text) for text in args.accept]
    from dreamer_jax.report.results.report import write_report

    at = {"scored_at": args.frame or math.inf}
    verdicts, problems = write_report(args.runs, args.out, accept=thresholds, **at, **known_keys())
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    for verdict in verdicts:
        print(verdict)
    print(f"report: {Path(args.out) / 'index.html'}")
    if thresholds and (problems or not verdicts or not all(v.met for v in verdicts)):
        sys.exit(1)


def known_keys() -> dict[str, Any]:
    """Return `defaults` and `ignored` of `read_runs`, from the config keys of this version."""
    from dreamer_jax.config.keys import RUN_KEYS
    from dreamer_jax.schema import KEYS

    return {"defaults": {name: key.default for name, key in KEYS.items()}, "ignored": RUN_KEYS}


COMMAND = Command(__doc__, add_flags, main)
