"""Errors for names and keys that a user can mistype."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


def suggest(given: str, known: Iterable[str]) -> str:
    """Return ' Did you mean ...?' with the known name nearest to `given`, or ''."""
    near = difflib.get_close_matches(given, list(known), n=1, cutoff=0.4)
    return f" Did you mean {near[0]!r}?" if near else ""


def lookup(registry: Mapping[str, T], name: str, what: str) -> T:
    """Return `registry[name]`.

    Raises:
        ValueError: `name` is not registered; the message lists the choices and the nearest.
    """
    if name in registry:
        return registry[name]
    choices = ", ".join(sorted(registry))
    raise ValueError(f"{what} is {name!r}; choose one of: {choices}.{suggest(name, registry)}")
