"""Shipped configs, one module each.

`get_config(arg)` of a module returns a `ConfigDict`; its docstring lists the arguments, and what to
expect of a run. `sweep(add, arg)`, if it has one, calls `add(**overrides)` for each job of a sweep.
`presets.py` holds settings that several modules share. Configs may import each other and every room
before the commands. Start with `catch.py`.
"""

import importlib
import importlib.util
import pkgutil
from pathlib import Path
from types import ModuleType

from ml_collections import ConfigDict

from dreamer_jax.errors import UsageError, lookup, suggest


def config_names() -> list[str]:
    """Return the names of all shipped configs."""
    return sorted({module.name for module in pkgutil.iter_modules(__path__)} - {"presets"})


def get_config(name: str, arg: str = "") -> ConfigDict:
    """Return a shipped config.

    Args:
        name: its module, such as 'atari'.
        arg: the argument of the module's `get_config`, such as 'pong,debug'.

    Raises:
        UsageError: there is no such config, or it does not know the argument.
    """
    return _shipped_module(name).get_config(arg)


def load_module(given: str) -> tuple[ModuleType, str | None]:
    """Load the config module that a user names.

    Args:
        given: the name of a shipped config or the path of a Python file that defines `get_config`;
            after a colon, the argument of `get_config`.

    Returns:
        The module, and the argument; None without a colon.

    Raises:
        UsageError: there is no such config, or the file defines no `get_config`.
    """
    name, colon, arg = given.partition(":")
    if not name.endswith(".py"):
        return _shipped_module(name), arg if colon else None
    path = Path(name)
    if not path.is_file():
        names = config_names()
        raise UsageError(
            f"there is no file {path}; shipped configs are named without path and ending: "
            f"{', '.join(names)}.{suggest(path.stem, names)}"
        )
    spec = importlib.util.spec_from_file_location(f"config_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not hasattr(module, "get_config"):
        raise UsageError(f"{path} defines no function get_config, which returns the config")
    return module, arg if colon else None


def _shipped_module(name: str) -> ModuleType:
    lookup(dict.fromkeys(config_names()), name, "config")
    return importlib.import_module(f"{__name__}.{name}")
