"""List the members of a run, copy some to a new run, join two runs, or add fresh seeds.

python experiments/members.py --workdir=runs/pong
python experiments/members.py --workdir=runs/pong --extract=2,3 --to=runs/pong_two
python experiments/members.py --workdir=runs/pong --join=runs/pong_b --to=runs/pong_all
python experiments/members.py --workdir=runs/pong --add=5,6 --to=runs/pong_seven
"""

from collections.abc import Sequence

from absl import flags

from dreamer_jax import cli
from dreamer_jax.run.members import add_members, extract, join, list_members

WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run; it is only read.")
EXTRACT = flags.DEFINE_list("extract", None, "Numbers of the members to copy, as 2,3.")
JOIN = flags.DEFINE_string("join", None, "Directory of another run, equally far, of other members.")
ADD = flags.DEFINE_list(
    "add", None, "Seeds to train as the finished run was, as 5,6, with each of its settings."
)
TO = flags.DEFINE_string("to", None, "Directory of the new run; empty, or not there yet.")
flags.mark_flag_as_required("workdir")
flags.mark_flags_as_mutual_exclusive(["extract", "join", "add"])


def main() -> None:
    changes = any(flag.value is not None for flag in (EXTRACT, JOIN, ADD))
    if changes != (TO.value is not None):
        raise cli.UsageError("--to goes with one of --extract, --join and --add, and they with it")
    if EXTRACT.value is not None:
        extract(WORKDIR.value, _numbers("extract", EXTRACT.value), TO.value)
    elif JOIN.value is not None:
        join(WORKDIR.value, JOIN.value, TO.value)
    elif ADD.value is not None:
        result = add_members(WORKDIR.value, _numbers("add", ADD.value), TO.value)
        if not result["finished"]:
            print("nothing is joined yet; the same command goes on with the training")
            return
    print(_table(list_members(TO.value if changes else WORKDIR.value)))


def _numbers(name: str, given: Sequence[str]) -> list[int]:
    if not all(entry.strip().isdecimal() for entry in given):
        raise cli.UsageError(f"--{name} is {','.join(given)!r}; allowed: whole numbers, as 2,3")
    return [int(entry) for entry in given]


def _table(records: Sequence[dict]) -> str:
    """Records of the same keys in columns, as text."""
    rows = [list(records[0])] + [[_cell(value) for value in r.values()] for r in records]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(lines)


def _cell(value: bool | int | float | None) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.2f}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    cli.run(main)
