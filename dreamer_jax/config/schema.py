"""Kinds of config values: what each allows, in words and as a check."""

import math
import re
from collections.abc import Callable, Sequence
from numbers import Integral, Real
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """A set of allowed values: its description and its test."""

    allowed: str
    check: Callable[[Any], bool]


class Key(NamedTuple):
    """One config key."""

    default: Any
    kind: Kind
    meaning: str  # with the unit


def _is_int(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def integer(low: int, high: float = math.inf) -> Kind:
    """Whole numbers in [low, high]."""
    upper = "" if high == math.inf else f" and at most {high}"
    return Kind(
        f"a whole number of at least {low}{upper}", lambda v: _is_int(v) and low <= v <= high
    )


def number(low: float = 0.0, high: float = math.inf) -> Kind:
    """Finite numbers in [low, high]."""
    words = (
        f"a finite number of at least {low:g}"
        if high == math.inf
        else (f"a number from {low:g} to {high:g}")
    )
    return Kind(
        words,
        lambda v: (
            isinstance(v, Real)
            and not isinstance(v, bool)
            and math.isfinite(v)
            and low <= v <= high
        ),
    )


def boolean() -> Kind:
    """True or False."""
    return Kind("True or False", lambda v: isinstance(v, bool))


def text() -> Kind:
    """Any string."""
    return Kind("a string", lambda v: isinstance(v, str))


def choice(names: Sequence[str]) -> Kind:
    """One of the names."""
    return Kind("one of " + ", ".join(sorted(names)), lambda v: v in names)


def pattern() -> Kind:
    """A regular expression."""

    def check(value: Any) -> bool:
        try:
            return isinstance(value, str) and bool(re.compile(value))
        except re.error:
            return False

    return Kind("a regular expression", check)


def optional(kind: Kind) -> Kind:
    """`kind` or None."""
    return Kind(f"None or {kind.allowed}", lambda v: v is None or kind.check(v))


def seeds() -> Kind:
    """A number of seeds, or a list of them."""

    def check(value: Any) -> bool:
        if _is_int(value):
            return value >= 1
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            return False
        return all(_is_int(s) and 0 <= s < 2**32 for s in value)

    return Kind(
        "a number of seeds of at least 1, or a list of whole numbers from 0 to 2^32 - 1",
        check,
    )


def values(kind: Kind) -> Kind:
    """One or more of `kind`."""

    def check(value: Any) -> bool:
        sequence = isinstance(value, Sequence) and not isinstance(value, str)
        return sequence and len(value) > 0 and all(map(kind.check, value))

    return Kind(f"a list, as 1,2 on the command line, each {kind.allowed}", check)
