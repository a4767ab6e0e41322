"""Environments that are JAX programs: pure functions, stepped inside of compiled code.

    protocol  `JaxEnv`, what such an environment is, and the registry of tasks; start here
    adapt     normalised spaces, time limit and action repeat, as `envs.adapt` does for gymnasium
    rows      many environments as arrays: keys, states, last observations
    vector    these behind the interface of `FaultTolerantVector`, for the host loop
    catch, reach      the tasks of the same names, on a device
    gymnax, craftax   `gymnax:<id>` and `craftax:<id>`, of the packages of these names

A new file in this folder is found without being listed anywhere, so a task registers itself.
Unlike the rest of `envs` this room imports JAX, so nothing that runs in a worker may import it.
"""

import importlib
import pkgutil

from dreamer_jax.envs.jax_env.adapt import AdaptedEnv
from dreamer_jax.envs.jax_env.protocol import (
    JAX_TASKS,
    JaxEnv,
    is_jax_env,
    make_jax_env,
    register_jax_task,
)
from dreamer_jax.envs.jax_env.vector import JaxVector, SingleEnv

__all__ = [
    "JAX_TASKS",
    "AdaptedEnv",
    "JaxEnv",
    "JaxVector",
    "SingleEnv",
    "is_jax_env",
    "make_jax_env",
    "register_jax_task",
]

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    importlib.import_module(_module.name)
