"""Many environments stepped at once, on which a failing environment has no lasting effect.

Files, from the caller down to the environment:
    tolerant.py: `FaultTolerantVector`, which replaces environments that raise, hang or end their
        process, and `FaultLimit`, which ends a run in which too many do. Start here.
    probe.py: the spaces and the code of an environment.
    vector.py: `Vector`, which checks calls and returns faults, and `LocalVector`, in this process.
    process.py: `ProcessVector`, in worker processes, and the parent's side of a worker.
    worker.py: the worker's side.
    slots.py: `EnvSlots`, the environments of one process, called one after another.
    snapshot.py: the state of one environment as bytes, without its code.
    trial.py: which way of saving it is exact, if one is.

The room imports `envs`, `errors` and `streams` alone, and never JAX: worker processes import it.
"""

from dreamer_jax.envs.vector.probe import Probed, probe
from dreamer_jax.envs.vector.tolerant import FaultLimit, FaultTolerantVector, OnFault, TooManyFaults

__all__ = ["FaultLimit", "FaultTolerantVector", "OnFault", "Probed", "TooManyFaults", "probe"]
