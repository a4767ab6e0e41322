# The types of the names that __init__.py imports on first use.
from dreamer_jax.agent.reference import import_reference as import_reference
from dreamer_jax.config.config import default_config as default_config
from dreamer_jax.errors import UsageError as UsageError
from dreamer_jax.run.evaluation import evaluate as evaluate
from dreamer_jax.run.from_reference import start_from_reference as start_from_reference
from dreamer_jax.run.load import load as load
from dreamer_jax.run.setup import dry_run as dry_run
from dreamer_jax.run.trainer import train as train
from dreamer_jax.runtime import prepare as prepare

__version__: str
