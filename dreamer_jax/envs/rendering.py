"""The choice of a headless MuJoCo renderer that works on this machine."""

import functools
import os
import subprocess
import sys

from dreamer_jax.errors import UsageError

VARIABLE = "MUJOCO_GL"  # read when dm_control is imported
RENDERERS = ("egl", "osmesa")  # in order of preference: EGL may use a GPU
NONE = "disable"
DRAW = """
from dm_control import mujoco
physics = mujoco.Physics.from_xml_string("<mujoco/>")
physics.render(8, 8)
physics.free()
"""
SECONDS = 60  # timeout of this program


def choose_renderer() -> None:
    """Set MUJOCO_GL, unless it has a value, to the first of EGL and OSMesa that draws.

    Call this before dm_control is imported. Where neither draws, physics without pictures still
    work, and `no_renderer` reports what is missing. Child processes inherit the choice.
    """
    if not os.environ.get(VARIABLE):
        drawing = (name for name in RENDERERS if failure(name) is None)
        os.environ[VARIABLE] = next(drawing, NONE)


@functools.cache
def failure(renderer: str) -> str | None:
    """Return in one line why a renderer does not draw, or None if it does.

    It is tried in a separate process, because a process that has loaded one renderer cannot load
    another, and a broken driver may end the process.
    """
    environment = os.environ | {VARIABLE: renderer}
    try:
        subprocess.run(
            [sys.executable, "-c", DRAW],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        return f"no picture in {SECONDS} seconds"
    except subprocess.CalledProcessError as error:
        return (error.stderr.strip().splitlines() or [f"exit status {error.returncode}"])[-1]
    return None


def no_renderer(error: Exception | str) -> UsageError:
    """Return the error for a renderer that failed with `error`."""
    chosen = os.environ.get(VARIABLE, "")
    if chosen == NONE:
        error = "; ".join(f"{name}: {failure(name) or 'draws'}" for name in RENDERERS)
    return UsageError(
        f"MuJoCo cannot render on this machine ({VARIABLE}={chosen}: {error}). Install EGL (on "
        f"Debian libegl1 and libgl1-mesa-dri, or the GPU's driver) or OSMesa (libosmesa6); set "
        f"{VARIABLE}=egl or {VARIABLE}=osmesa to choose one, or leave it unset for the first that "
        f"works. The tasks 'dmc_proprio:<domain>_<task>' need no renderer"
    )
