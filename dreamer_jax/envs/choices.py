"""The error for a name missing from a list too long to print."""

import difflib
from collections.abc import Collection


def unknown(kind: str, name: str, choices: Collection[str]) -> ValueError:
    """The error for an unknown `name`, with the nearest of the choices and how many there are.

    Args:
        kind: what the name should have been, such as "Atari game".
        name: the name that was given.
        choices: the names that exist.
    """
    near = difflib.get_close_matches(name, list(choices), n=5, cutoff=0.4)
    shown = f"the nearest are {', '.join(near)}" if near else f"such as {', '.join([*choices][:5])}"
    hint = f". Did you mean {near[0]!r}?" if near else ""
    return ValueError(f"unknown {kind} {name!r}: there are {len(choices)}, {shown}{hint}")
