"""User-facing errors that list the valid choices and suggest the nearest."""

import difflib
import importlib
from collections.abc import Collection, Iterable, Mapping
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")


class UsageError(ValueError):
    """An error in what the user gave; the message says what it was and what is allowed."""


class ProcessFailed(RuntimeError):
    """The failure of another process of the same run."""


def suggest(given: str, known: Iterable[str]) -> str:
    """Return ' Did you mean ...?' with the known name nearest to `given`, or ''."""
    near = difflib.get_close_matches(given, list(known), n=1, cutoff=0.4)
    return f" Did you mean {near[0]!r}?" if near else ""


def lookup(registry: Mapping[str, T], name: str, what: str) -> T:
    """Return `registry[name]`.

    Args:
        registry: the values by name.
        name: the name that was given.
        what: the name's role for the message, such as "config.task".

    Raises:
        UsageError: `name` is not registered; the message lists the choices and the nearest.
    """
    if name in registry:
        return registry[name]
    choices = ", ".join(sorted(registry))
    raise UsageError(f"{what} is {name!r}; choose one of: {choices}.{suggest(name, registry)}")


def unknown(kind: str, name: str, choices: Collection[str]) -> UsageError:
    """Return the error for a name missing from a list that is too long to print.

    Args:
        kind: the kind of thing that it should name, such as "Atari game".
        name: the name that was given.
        choices: the names that exist.
    """
    near = difflib.get_close_matches(name, list(choices), n=5, cutoff=0.4)
    examples = f"such as {', '.join([*choices][:5])}"
    if near:
        examples = f"the nearest are {', '.join(near)}. Did you mean {near[0]!r}?"
    return UsageError(f"unknown {kind} {name!r}: there are {len(choices)}, {examples}")


def require(package: str, *, extra: str) -> ModuleType:
    """Import an optional package.

    Args:
        package: its import name.
        extra: the extra of this project that installs it.

    Raises:
        UsageError: the package is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise  # installed, but one of its own dependencies is missing
        raise UsageError(
            f"the package {package} is not installed: pip install 'dreamer-jax[{extra}]'"
        ) from error
