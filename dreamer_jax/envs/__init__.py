"""Environments: built by name, normalised to images and vectors. `envs.vector` steps many."""

from dreamer_jax.envs.registry import TASKS, make_env

__all__ = ["TASKS", "make_env"]
