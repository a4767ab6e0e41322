"""Configs: every key with its default, whole configs, and the members that a config describes."""

from dreamer_jax.config.config import (
    default_config,
    differences,
    flatten,
    from_json,
    to_json,
    validate,
)
from dreamer_jax.config.keys import KEYS, RUN_KEYS

__all__ = [
    "KEYS",
    "RUN_KEYS",
    "default_config",
    "differences",
    "flatten",
    "from_json",
    "to_json",
    "validate",
]
