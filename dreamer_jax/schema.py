"""Config keys, the values that they allow, and registries of exchangeable pieces.

How `config.behavior = "planet"` becomes an object, and `config.planet.horizon` its argument:

1. behavior/planet.py registers a piece, a function, under a name and with config keys of its own:

       @BEHAVIORS.register("planet", {"planet.horizon": Key(12, integer(1), "steps of a plan")})
       def make_planner(parts: Parts, *, horizon: int) -> Planner: ...

2. config/keys.py imports all such modules, and declares the key that chooses among the pieces:

       "behavior": Key("dreamer", choice(BEHAVIORS), "how actions are chosen for the task")

3. agent/build.py calls the piece that the config names, with the values of its keys:

       BEHAVIORS.bind(config.behavior, config)(parts)  # = make_planner(parts, horizon=12)
"""

import importlib
import json
import math
import pkgutil
import re
from collections import ChainMap
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial, reduce
from numbers import Integral, Real
from operator import getitem
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T", bound=Callable)


class Kind(NamedTuple):
    """A set of allowed values."""

    description: str  # in words, without the choices
    check: Callable[[Any], bool]
    choices: Collection[str] = ()  # may grow

    @property
    def allowed(self) -> str:
        """Return the allowed values in words."""
        return " ".join([self.description, ", ".join(sorted(self.choices))]).strip()


class Key(NamedTuple):
    """A config key."""

    default: Any
    kind: Kind
    meaning: str  # with the unit


KEYS: dict[str, Key] = {}  # all config keys, by dotted name


def declare(keys: Mapping[str, Key]) -> None:
    """Add config keys to `KEYS`.

    Raises:
        ValueError: another key has been declared under this name, or its default is not allowed.
    """
    for name, key in keys.items():
        if KEYS.get(name, key) is not key:
            raise ValueError(f"the config key {name!r} is declared already: {KEYS[name]}")
        if not key.kind.check(key.default):
            raise ValueError(
                f"the default of the config key {name!r} is {key.default!r}; "
                f"allowed: {key.kind.allowed}"
            )
    KEYS.update(keys)


class Registry(dict[str, T]):
    """Pieces (functions or classes) of one kind by name, with the config keys that they take."""

    def __init__(self, pieces: Mapping[str, T] | None = None):
        super().__init__(pieces or {})
        # By piece: its keys, and whether it declared each itself instead of sharing another's.
        self._keys: dict[str, dict[str, bool]] = {}

    def register(
        self, name: str, keys: Mapping[str, Key] = MappingProxyType({})
    ) -> Callable[[T], T]:
        """Return a decorator that adds a piece and declares its keys.

        Args:
            name: value of the config key that chooses the piece.
            keys: config keys by dotted name; the piece gets the value of each as a keyword
                argument with the last part of its name. To share another's key, pass that one:
                `{"rssm.classes": KEYS["rssm.classes"]}`.

        Raises:
            ValueError: another piece has this name, or see `declare`.
        """

        def add(piece: T) -> T:
            known = self.get(name, piece)
            # A notebook cell that is run again defines the same piece again.
            if (known.__module__, known.__qualname__) != (piece.__module__, piece.__qualname__):
                raise ValueError(f"{name!r} is registered already, by {known}")
            for key, declared in self._keys.pop(name, {}).items():
                if declared:
                    del KEYS[key]
            declared = {key: key not in KEYS for key in keys}
            declare(keys)
            self._keys[name] = declared
            self[name] = piece
            return piece

        return add

    def bind(self, name: str, config: Mapping[str, Any]) -> T:
        """Return the piece `name` with its keys' values in `config` filled in."""
        arguments = {}
        for key in self._keys.get(name, ()):
            parts = key.split(".")
            arguments[parts[-1]] = reduce(getitem, parts, config)
        return partial(self[name], **arguments)


def import_modules(package: ModuleType) -> None:
    """Import all modules of a package, so that they register their pieces."""
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)


def _is_int(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def integer(low: int, high: int | None = None) -> Kind:
    """Return the kind of whole numbers from `low`, up to `high` if it is given."""
    if high is None:
        return Kind(f"a whole number of at least {low}", lambda v: _is_int(v) and v >= low)
    return Kind(f"a whole number from {low} to {high}", lambda v: _is_int(v) and low <= v <= high)


def number(low: float = 0.0, high: float = math.inf) -> Kind:
    """Return the kind of finite numbers in [low, high]."""

    def check(value: Any) -> bool:
        is_real = isinstance(value, Real) and not isinstance(value, bool)
        try:
            return is_real and math.isfinite(value) and low <= value <= high
        except OverflowError:  # a whole number that no float can hold
            return False

    if high == math.inf:
        return Kind(f"a finite number of at least {low:g}", check)
    return Kind(f"a number from {low:g} to {high:g}", check)


def boolean() -> Kind:
    """Return the kind of True and False."""
    return Kind("True or False", lambda v: isinstance(v, bool))


def text() -> Kind:
    """Return the kind of strings."""
    return Kind("a string", lambda v: isinstance(v, str))


def arguments() -> Kind:
    """Return the kind of None and dicts of keyword arguments that JSON can hold."""

    def check(value: Any) -> bool:
        if value is None:
            return True
        try:
            given = {**value}
            json.dumps(given, allow_nan=False)
        except (TypeError, ValueError):
            return False
        return all(isinstance(name, str) and name.isidentifier() for name in given)

    return Kind("None or a dict of arguments by name, of numbers, strings, lists, dicts", check)


def choice(names: Mapping[str, Any] | Sequence[str], *others: str) -> Kind:
    """Return the kind of certain names: of a registry, which may grow later, or of a sequence."""
    registry = names if isinstance(names, Mapping) else dict.fromkeys(names)
    choices = ChainMap(registry, dict.fromkeys(others))
    return Kind("one of", lambda v: isinstance(v, str) and v in choices, choices)


def one_of(numbers: Collection[int]) -> Kind:
    """Return the kind of certain whole numbers."""
    listed = ", ".join(map(str, sorted(numbers)))
    return Kind(f"one of {listed}", lambda v: _is_int(v) and v in numbers)


def pattern() -> Kind:
    """Return the kind of regular expressions."""

    def check(value: Any) -> bool:
        try:
            return isinstance(value, str) and bool(re.compile(value))
        except (re.error, OverflowError):
            return False

    return Kind("a regular expression", check)


def optional(kind: Kind) -> Kind:
    """Return the kind of None and the values of `kind`."""
    return Kind(f"None or {kind.description}", lambda v: v is None or kind.check(v), kind.choices)


def seeds() -> Kind:
    """Return the kind of a number of seeds, or a list of seeds."""

    def check(value: Any) -> bool:
        if _is_int(value):
            return value >= 1
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            return False
        return all(_is_int(s) and 0 <= s < 2**32 for s in value)

    return Kind(
        "a number of seeds of at least 1, or a list of whole numbers from 0 to 2^32 - 1", check
    )


def values(kind: Kind) -> Kind:
    """Return the kind of lists of one or more values of `kind`."""

    def check(value: Any) -> bool:
        sequence = isinstance(value, Sequence) and not isinstance(value, str)
        return sequence and len(value) > 0 and all(map(kind.check, value))

    return Kind(f"a list, as 1,2 on the command line, each {kind.description}", check, kind.choices)
