"""DreamerV2 in JAX: many seeds and hyperparameters train in one compiled program."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dreamer_jax.agent.reference import import_reference
    from dreamer_jax.config.config import default_config
    from dreamer_jax.errors import UsageError
    from dreamer_jax.run.evaluation import evaluate
    from dreamer_jax.run.load import load
    from dreamer_jax.run.setup import dry_run
    from dreamer_jax.run.trainer import train

__version__ = "0.1.0"
__all__ = [
    "UsageError",
    "default_config",
    "dry_run",
    "evaluate",
    "import_reference",
    "load",
    "train",
]

_MODULES = {
    "UsageError": "errors",
    "default_config": "config.config",
    "dry_run": "run.setup",
    "evaluate": "run.evaluation",
    "import_reference": "agent.reference",
    "load": "run.load",
    "train": "run.trainer",
}


def __getattr__(name: str) -> Any:
    # Imported when asked for: processes that only step environments must not load JAX.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
