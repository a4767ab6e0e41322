"""Digests of code, which show whether an environment is still made of the same."""

import functools
import hashlib
import types
from collections.abc import Iterable
from typing import Any


def code_digests(pieces: Iterable[Any]) -> dict[str, str]:
    """Return a digest of every class and function among `pieces`, and of those that they use.

    These are bases, arguments of partial functions, and what code refers to by a global name or a
    closure within the same package. Digests are of compiled code, so comments do not count, and a
    file that was edited while it runs does not either; attributes of classes are not included.

    Returns:
        Digests by 'module.name'.
    """
    digests: dict[str, str] = {}
    waiting, seen = list(pieces), set()
    while waiting:
        piece = waiting.pop()
        if id(piece) in seen:
            continue
        seen.add(id(piece))
        if isinstance(piece, functools.partial):
            waiting += [piece.func, *piece.args, *piece.keywords.values()]
            continue
        piece = getattr(piece, "__func__", piece)  # of a method
        if not isinstance(piece, type | types.FunctionType) or piece.__module__ == "builtins":
            continue
        functions = _functions(piece)
        code = hashlib.sha256("".join(_text(function.__code__) for function in functions).encode())
        digests[f"{piece.__module__}.{piece.__qualname__}"] = code.hexdigest()[:12]
        waiting += [*getattr(piece, "__bases__", ())]
        waiting += [used for function in functions for used in _used(function)]
    return digests


def _functions(piece: Any) -> list[types.FunctionType]:
    """Return a function, or the functions in the body of a class, in order of their names."""
    if isinstance(piece, types.FunctionType):
        return [piece]
    found = []
    for _, value in sorted(vars(piece).items()):
        parts = (value.fget, value.fset) if isinstance(value, property) else (value,)
        found += [getattr(part, "__func__", part) for part in parts]
    return [value for value in found if isinstance(value, types.FunctionType)]


def _text(code: types.CodeType) -> str:
    # The order of a frozenset depends on the process.
    constants = [
        _text(value)
        if isinstance(value, types.CodeType)
        else repr(sorted(map(repr, value)) if isinstance(value, frozenset) else value)
        for value in code.co_consts
    ]
    return repr((code.co_code, code.co_names, code.co_varnames, code.co_freevars, constants))


def _used(function: types.FunctionType) -> list[Any]:
    package = function.__module__.partition(".")[0]
    values = [function.__globals__.get(name) for name in _names(function.__code__)]
    for cell in function.__closure__ or ():
        try:
            values.append(cell.cell_contents)
        except ValueError:
            pass  # still empty
    return [
        value
        for value in values
        if isinstance(value, functools.partial)
        or (getattr(value, "__module__", None) or "").partition(".")[0] == package
    ]


def _names(code: types.CodeType) -> set[str]:
    nested = [value for value in code.co_consts if isinstance(value, types.CodeType)]
    return {*code.co_names}.union(*map(_names, nested))
