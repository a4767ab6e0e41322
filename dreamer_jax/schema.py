"""Config keys, the values that they allow, and registries of exchangeable pieces.

`KEYS` is the table of all config keys; code declares its keys beside the place that uses them. A
`Registry` maps the names that a key may take to the pieces that they stand for, such as behaviours:

    @BEHAVIORS.register("planet", {"planet.horizon": Key(12, integer(1), "steps of a plan")})
    def make_planet(spaces: Spaces, *, horizon: int) -> Planet: ...

The key that names the piece has the kind `choice(BEHAVIORS)`, and the piece gets the values of its
own keys as keyword arguments: neither the list of names nor the builder must be edited.
"""

import importlib
import math
import pkgutil
import re
from collections import ChainMap
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial, reduce
from numbers import Integral, Real
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

T = TypeVar("T", bound=Callable)


class Kind(NamedTuple):
    """A set of allowed values."""

    description: str  # followed by the choices, if there are any
    check: Callable[[Any], bool]
    choices: Collection[str] = ()  # read whenever it is needed, so it may grow

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        return " ".join([self.description, ", ".join(sorted(self.choices))]).strip()


class Key(NamedTuple):
    """A config key."""

    default: Any
    kind: Kind
    meaning: str  # with the unit


KEYS: dict[str, Key] = {}  # by dotted name


def declare(keys: Mapping[str, Key]) -> None:
    """Add config keys to `KEYS`.

    Raises:
        ValueError: another key has been declared under a name, or a default is not allowed.
    """
    for name, key in keys.items():
        if KEYS.get(name, key) is not key:
            raise ValueError(f"the config key {name!r} has been declared before: {KEYS[name]}")
        if not key.kind.check(key.default):
            raise ValueError(
                f"the default of the config key {name!r} is {key.default!r}; "
                f"allowed: {key.kind.allowed}"
            )
    KEYS.update(keys)


class Registry(dict[str, T]):
    """Pieces of one kind by name, each with the config keys that it takes.

    Pieces without keys may also be added by item assignment.
    """

    def __init__(self, pieces: Mapping[str, T] | None = None):
        super().__init__(pieces or {})
        self._keys: dict[str, list[str]] = {}  # of each piece
        self._declared: dict[str, list[str]] = {}  # those that no other piece had declared before

    def register(self, name: str, keys: Mapping[str, Key] | None = None) -> Callable[[T], T]:
        """Return a decorator that adds a piece and declares its keys.

        Args:
            name: value of the config key that chooses the piece.
            keys: config keys by dotted name; the piece takes the value of each as a keyword
                argument with the last part of its name. A key of `KEYS` may be shared:
                `{"rssm.classes": KEYS["rssm.classes"]}`.

        Raises:
            ValueError: another piece has this name, or see `declare`.
        """

        keys = keys or {}

        def add(piece: T) -> T:
            known = self.get(name, piece)
            # A notebook's cell that is run again defines the same piece again.
            if (known.__module__, known.__qualname__) != (piece.__module__, piece.__qualname__):
                raise ValueError(f"the name {name!r} has been registered before: {known}")
            for key in self._declared.pop(name, ()):
                del KEYS[key]
            declared = [key for key in keys if key not in KEYS]
            declare(keys)
            self._keys[name], self._declared[name] = list(keys), declared
            self[name] = piece
            return piece

        return add

    def bind(self, name: str, config: Mapping[str, Any]) -> T:
        """Return the piece `name` with the values that `config` has for its keys filled in."""
        values = {
            key.split(".")[-1]: reduce(lambda node, part: node[part], key.split("."), config)
            for key in self._keys.get(name, ())
        }
        return partial(self[name], **values)


def import_modules(package: ModuleType) -> None:
    """Import all modules of a package, so that the pieces in them are registered."""
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)


def _is_int(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def integer(low: int, high: float = math.inf) -> Kind:
    """Return the kind of whole numbers in [low, high]."""
    upper = "" if high == math.inf else f" and at most {high}"
    return Kind(
        f"a whole number of at least {low}{upper}", lambda v: _is_int(v) and low <= v <= high
    )


def number(low: float = 0.0, high: float = math.inf) -> Kind:
    """Return the kind of finite numbers in [low, high]."""
    bounded = f"a number from {low:g} to {high:g}"
    return Kind(
        f"a finite number of at least {low:g}" if high == math.inf else bounded,
        lambda v: (
            isinstance(v, Real)
            and not isinstance(v, bool)
            and math.isfinite(v)
            and low <= v <= high
        ),
    )


def boolean() -> Kind:
    """Return the kind of True and False."""
    return Kind("True or False", lambda v: isinstance(v, bool))


def text() -> Kind:
    """Return the kind of strings."""
    return Kind("a string", lambda v: isinstance(v, str))


def choice(names: Mapping[str, Any] | Sequence[str], *others: str) -> Kind:
    """Return the kind of certain names.

    Args:
        names: the names, or a registry that has them as keys and may grow later.
        others: further names.
    """
    registry = names if isinstance(names, Mapping) else dict.fromkeys(names)
    choices = ChainMap(registry, dict.fromkeys(others))
    return Kind("one of", lambda v: isinstance(v, str) and v in choices, choices)


def pattern() -> Kind:
    """Return the kind of regular expressions."""

    def check(value: Any) -> bool:
        try:
            return isinstance(value, str) and bool(re.compile(value))
        except re.error:
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
        "a number of seeds of at least 1, or a list of whole numbers from 0 to 2^32 - 1",
        check,
    )


def values(kind: Kind) -> Kind:
    """Return the kind of lists of one or more values of `kind`."""

    def check(value: Any) -> bool:
        sequence = isinstance(value, Sequence) and not isinstance(value, str)
        return sequence and len(value) > 0 and all(map(kind.check, value))

    return Kind(f"a list, as 1,2 on the command line, each {kind.description}", check, kind.choices)
