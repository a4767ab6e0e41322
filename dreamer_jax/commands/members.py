"""List the members of a run, copy some to a new run, join two runs, or add fresh seeds.

dreamer-jax members --workdir=runs/pong
dreamer-jax members --workdir=runs/pong --extract=2,3 --to=runs/pong_two
dreamer-jax members --workdir=runs/pong --join=runs/pong_b --to=runs/pong_all
dreamer-jax members --workdir=runs/pong --add=5,6 --to=runs/pong_seven
"""

from argparse import Namespace

from dreamer_jax.commands.flags import Command, Flags, whole_numbers
from dreamer_jax.commands.tables import Column, format_table
from dreamer_jax.errors import UsageError


def add_flags(flags: Flags) -> None:
    flags.add_argument("--workdir", required=True, help="directory of the run, which is only read")
    flags.add_make_env()
    add = flags.add_mutually_exclusive_group().add_argument
    add("--extract", type=whole_numbers(0), help="numbers of the members to copy, as 2,3")
    add("--join", help="directory of another run, at the same env step, with other members")
    seeds = "seeds to train as the finished run was, as 5,6; each gets every setting in the run"
    add("--add", type=whole_numbers(0), help=seeds)
    flags.add_argument("--to", help="directory of the new run; it must be empty or not exist yet")


def main(args: Namespace) -> None:
    """Make the new run, if the flags ask for one, and print its members, else those of the run."""
    from dreamer_jax.run.members import add_members, extract, join, list_members

    changes = any(value is not None for value in (args.extract, args.join, args.add))
    if changes != (args.to is not None):
        raise UsageError("--to and one of --extract, --join and --add must be given together")
    if args.extract is not None:
        extract(args.workdir, args.extract, args.to, make_env=args.make_env)
    elif args.join is not None:
        join(args.workdir, args.join, args.to, make_env=args.make_env)
    elif args.add is not None:
        result = add_members(args.workdir, args.add, args.to, make_env=args.make_env)
        if not result["finished"]:
            print("nothing has been joined yet; the same command resumes the training")
            return
    records = list_members(args.to if changes else args.workdir, make_env=args.make_env)
    rows = [{key: _format(key, value) for key, value in record.items()} for record in records]
    print(format_table([Column(key, key) for key in rows[0]], rows))


def _format(key: str, value: bool | int | float | None) -> str | int | None:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}" if key.endswith("_return") else f"{value:g}"
    return value


COMMAND = Command(__doc__, add_flags, main)
