"""Environments: built by name and normalised to one interface. `envs.vector` steps many at once.

Files:
    registry.py: `make_env`, and the decorator by which a task registers its name. Start here.
    wrappers.py: `adapt`, which normalises spaces and checks every step, and other wrappers.
    observations.py: how observations are read as images and vectors.
    actions.py: how the agent's actions become those of an environment.
    catch.py, reach.py, cue.py: small tasks that need no package; cue needs memory.
    atari.py, dmc.py, crafter.py, minigrid.py, gym.py: one file per benchmark, which registers
        itself. A new file in this folder is found without being listed anywhere.
    rendering.py: the choice of MuJoCo's headless renderer.
    film.py: frames for videos of environments whose observations hold no image.
    jax_env/: environments that are JAX programs, a room of its own.

The room imports `errors`, `schema` and `streams` alone, and never JAX: its environments run in
worker processes.
"""

import importlib
import pkgutil

from dreamer_jax.envs.registry import (
    EnvSettings,
    env_maker,
    limit_and_repeat,
    make_env,
    register_task,
)

__all__ = ["EnvSettings", "env_maker", "limit_and_repeat", "make_env", "register_task"]

for _module in pkgutil.iter_modules(__path__, f"{__name__}."):
    if not _module.ispkg:
        importlib.import_module(_module.name)
