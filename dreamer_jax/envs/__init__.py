"""Environments: built by name, normalised to images and vectors, stepped many at a time."""

from dreamer_jax.envs.registry import TASKS, make_env
from dreamer_jax.envs.results import EnvFault, StepResult
from dreamer_jax.envs.tolerant import FaultLimit, OnFault, TolerantVector, TooManyFaults
from dreamer_jax.envs.vector import LocalVector, ProcessVector, Vector, make_vector

__all__ = [
    "TASKS",
    "EnvFault",
    "FaultLimit",
    "LocalVector",
    "OnFault",
    "ProcessVector",
    "StepResult",
    "TolerantVector",
    "TooManyFaults",
    "Vector",
    "make_env",
    "make_vector",
]
