"""Environments: built by name, normalised to images and vectors, stepped many at a time."""

from dreamer_jax.envs.registry import TASKS, make_env
from dreamer_jax.envs.vector import LocalVector, ProcessVector, StepResult, Vector, make_vector

__all__ = [
    "TASKS",
    "LocalVector",
    "ProcessVector",
    "StepResult",
    "Vector",
    "make_env",
    "make_vector",
]
