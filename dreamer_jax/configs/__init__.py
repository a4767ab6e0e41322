"""Shipped configs, one module each.

`get_config(arg)` of a module returns a `ConfigDict`; its docstring lists the arguments, and what to
expect of a run. `presets.py` holds settings that several modules share. Configs may import each
other and every room before the commands. Start with `catch.py`.
"""

import importlib
import pkgutil

from ml_collections import ConfigDict

from dreamer_jax.errors import lookup


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
    lookup(dict.fromkeys(config_names()), name, "config")
    return importlib.import_module(f"{__name__}.{name}").get_config(arg)
