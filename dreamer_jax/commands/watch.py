"""Show the progress of runs in the terminal, until Ctrl-C.

dreamer-jax watch --runs=runs/catch
dreamer-jax watch --runs runs/* --every=30
dreamer-jax watch --runs=runs --once

The runs may be trained by this machine or another one that shares the directory; they are only
read. New runs in a folder appear by themselves.
"""

from argparse import Namespace

from dreamer_jax.commands.flags import Command, Flags, whole_number
from dreamer_jax.commands.report import RUNS_HELP, known_keys


def add_flags(flags: Flags) -> None:
    add = flags.add_argument
    add("--runs", nargs="+", required=True, action="extend", help=RUNS_HELP)
    add("--every", type=whole_number(1), default=5, help="seconds between refreshes; 5 by default")
    add("--once", action="store_true", help="print the table once")


def main(args: Namespace) -> None:
    """Show the table."""
    from dreamer_jax.report.results.watch import watch

    watch(args.runs, None if args.once else args.every, **known_keys())


COMMAND = Command(__doc__, add_flags, main)
