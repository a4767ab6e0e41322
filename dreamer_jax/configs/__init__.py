"""Configs that are shipped: each module's `get_config(arg)` returns one, see its header."""

import importlib
import pkgutil

from ml_collections import ConfigDict

from dreamer_jax.errors import lookup


def get_config(name: str, arg: str = "") -> ConfigDict:
    """Return the shipped config `name`, such as 'atari' with the argument 'pong,debug'.

    Raises:
        UsageError: there is no such config, or the config does not know the argument.
    """
    names = {module.name: module.name for module in pkgutil.iter_modules(__path__)}
    module = importlib.import_module(f"{__name__}.{lookup(names, name, 'config')}")
    return module.get_config(arg)
