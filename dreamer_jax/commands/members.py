"""List the members of a run, copy some to a new run, join two runs, or add fresh seeds.

dreamer-jax members --workdir=runs/pong
dreamer-jax members --workdir=runs/pong --extract=2,3 --to=runs/pong_two
dreamer-jax members --workdir=runs/pong --join=runs/pong_b --to=runs/pong_all
dreamer-jax members --workdir=runs/pong --add=5,6 --to=runs/pong_seven
"""

from argparse import Namespace
from collections.abc import Sequence

from dreamer_jax.commands.flags import Command, Flags, whole_numbers
from dreamer_jax.commands.tables import Column, format_table
from dreamer_jax.errors import UsageError


def add_flags(flags: Flags) -> None:
    """Define the flags of the command."""
    flags.add_argument("--workdir", required=True, help="directory of the run, which is only read")
    change = flags.add_mutually_exclusive_group()
    change.add_argument(
        "--extract", type=whole_numbers(0), help="numbers of the members to copy, as 2,3"
    )
    change.add_argument(
        "--join", help="directory of another run, at the same env step, with other members"
    )
    change.add_argument(
        "--add",
        type=whole_numbers(0),
        help="seeds to train from scratch as the finished run was trained, as 5,6; each gets "
        "every setting of its hyperparameters",
    )
    flags.add_argument("--to", help="directory of the new run; it must be empty or not exist yet")


def main(args: Namespace) -> None:
    """Make the new run, if one is asked for, and print its members, else those of the run."""
    from dreamer_jax.commands.process import prepare_to_compute
    from dreamer_jax.run.members import add_members, extract, join, list_members

    changes = any(value is not None for value in (args.extract, args.join, args.add))
    if changes != (args.to is not None):
        raise UsageError("--to and one of --extract, --join and --add must be given together")
    if changes:
        prepare_to_compute()
    if args.extract is not None:
        extract(args.workdir, args.extract, args.to)
    elif args.join is not None:
        join(args.workdir, args.join, args.to)
    elif args.add is not None:
        result = add_members(args.workdir, args.add, args.to)
        if not result["finished"]:
            print("nothing has been joined yet; the same command resumes the training")
            return
    print(_table(list_members(args.to if changes else args.workdir)))


def _table(records: Sequence[dict]) -> str:
    """Format records of the same keys, one per line."""
    columns = [Column(key, lambda row, key=key: _cell(row[key])) for key in records[0]]
    return format_table(columns, records)


def _cell(value: bool | int | float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


COMMAND = Command(__doc__, add_flags, main)
