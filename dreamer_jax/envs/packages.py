"""Packages of environments, which not everybody installs."""

import importlib
from types import ModuleType

from dreamer_jax.names import UsageError


def require(package: str, *, extra: str) -> ModuleType:
    """Import an optional package.

    Args:
        package: its name in Python.
        extra: of this project, that installs it.

    Raises:
        UsageError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise  # it is installed, and misses something itself
        raise UsageError(
            f"the package {package} is not installed: pip install 'dreamer-jax[{extra}]'"
        ) from error
