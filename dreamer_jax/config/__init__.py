"""Configs: their keys, validation, and the members that a config describes.

keys      the config keys that every run has; registered pieces bring their own
config    default configs, validation, JSON, differences
sweep     the members of a config: seeds and lists of hyperparameters

The names below are about configs as a whole; members are in `config.sweep`. The room is pure: it
imports `types`, `metrics`, `errors`, `schema`, `model`, `behavior`, and the names of
`replay.samplers`. Start with keys.
"""

from dreamer_jax.config.config import (
    default_config,
    differences,
    flatten,
    from_json,
    normalize,
    to_json,
    validate,
)
from dreamer_jax.config.keys import RUN_KEYS
from dreamer_jax.schema import KEYS

__all__ = [
    "KEYS",
    "RUN_KEYS",
    "default_config",
    "differences",
    "flatten",
    "from_json",
    "normalize",
    "to_json",
    "validate",
]
