"""DreamerV2 in JAX: many seeds and hyperparameters train in one compiled program."""

import importlib
from typing import Any

__version__ = "0.1.0"

_MODULES = {
    "UsageError": "errors",
    "default_config": "config.config",
    "dry_run": "run.setup",
    "evaluate": "run.evaluation",
    "import_reference": "agent.reference",
    "load": "run.load",
    "prepare": "runtime",
    "start_from_reference": "run.from_reference",
    "train": "run.trainer",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    # Imported on first use: processes that only step environments must not load JAX.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
