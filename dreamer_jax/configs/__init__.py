"""Configs that ship with the package, one module each.

A module's `get_config(arg)` returns a `ConfigDict`; its header lists the arguments, and what to
expect of a run. `presets.py` holds settings that several of them share. Configs may import every
room before the command line, and each other. Start with `catch.py`.
"""

import importlib
import pkgutil

from ml_collections import ConfigDict

from dreamer_jax.errors import lookup


def config_names() -> list[str]:
    """Return the names that `get_config` knows."""
    return sorted({module.name for module in pkgutil.iter_modules(__path__)} - {"presets"})


def get_config(name: str, arg: str = "") -> ConfigDict:
    """Return a shipped config.

    Args:
        name: its module, such as 'atari'.
        arg: the argument of the module's own `get_config`, such as 'pong,debug'.

    Raises:
        UsageError: there is no such config, or the config does not know the argument.
    """
    lookup(dict.fromkeys(config_names()), name, "config")
    return importlib.import_module(f"{__name__}.{name}").get_config(arg)
