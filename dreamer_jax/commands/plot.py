"""Draw curves of runs: a figure per task, with a line per member and the mean of each variant.

dreamer-jax plot --runs=runs/catch --out=plots --y=eval_return
dreamer-jax plot --runs runs/* --out=plots --x=env_step --y=model_loss --bins=30 --smooth=5

Bins and smoothing are stated on the figures.
"""

import sys
from argparse import Namespace
from pathlib import Path

from dreamer_jax.commands.flags import Command, Flags, whole_number
from dreamer_jax.commands.report import RUNS_HELP, known_keys
from dreamer_jax.errors import UsageError, suggest


def add_flags(flags: Flags) -> None:
    add = flags.add_argument
    add("--runs", nargs="+", required=True, action="extend", help=RUNS_HELP)
    add("--out", default="plots", help="directory of the figures; 'plots' by default")
    add("--x", choices=("frame", "env_step", "update"), default="frame", help="the x axis; frame")
    add("--y", default="eval_return", help="a metric of metrics.jsonl; eval_return by default")
    add("--bins", type=whole_number(0), default=0, help="average within this many bins; 0: none")
    add("--smooth", type=whole_number(0), default=0, help="running mean of points; 0: none")


def main(args: Namespace) -> None:
    """Draw the figures, and print their paths."""
    from dreamer_jax.report.results.figures import learning_curves
    from dreamer_jax.report.results.runs import by_variant, read_runs

    runs, problems = read_runs(args.runs, [args.y], x=args.x, **known_keys())
    for problem in problems:
        print(f"warning: {problem}", file=sys.stderr)
    members = [member for run in runs for member in run.members]
    if not any(member.curves.get(args.y) for member in members):
        known = set().union(*(member.latest for member in members))
        raise UsageError(f"no run has the metric {args.y!r}.{suggest(args.y, known)}")
    folder = Path(args.out).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    for task, variants in by_variant(runs).items():
        if any(member.curves.get(args.y) for group in variants.values() for member in group):
            picture = learning_curves(task, variants, args.y, args.x, (args.bins, args.smooth))
            print(picture.save(folder))


COMMAND = Command(__doc__, add_flags, main)
