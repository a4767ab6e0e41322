"""DreamerV2 in JAX: many seeds and hyperparameters train in one compiled program."""

from dreamer_jax.config import default_config
from dreamer_jax.evaluate import evaluate
from dreamer_jax.names import UsageError
from dreamer_jax.reference import import_reference
from dreamer_jax.run import dry_run
from dreamer_jax.train import train

__all__ = ["UsageError", "default_config", "dry_run", "evaluate", "import_reference", "train"]
__version__ = "0.1.0"
