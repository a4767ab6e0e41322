"""Many environments stepped at once; those that raise, hang or end their process are replaced."""

from dreamer_jax.envs.vector.results import EnvFault, StepResult
from dreamer_jax.envs.vector.tolerant import FaultLimit, FaultTolerantVector, OnFault, TooManyFaults
from dreamer_jax.envs.vector.vector import LocalVector, ProcessVector, Vector, make_vector

__all__ = [
    "EnvFault",
    "FaultLimit",
    "LocalVector",
    "OnFault",
    "ProcessVector",
    "StepResult",
    "FaultTolerantVector",
    "TooManyFaults",
    "Vector",
    "make_vector",
]
