"""Which of MuJoCo's headless renderers draws on this machine."""

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
SECONDS = 60  # that this may take


def choose_renderer() -> None:
    """Set MUJOCO_GL, unless it is set, to the first of EGL and OSMesa that draws.

    To be called before dm_control is imported. Where neither draws, the physics work all the same,
    and `no_renderer` says what is missing. Processes started from this one inherit the choice.
    """
    if VARIABLE not in os.environ:
        drawing = (name for name in RENDERERS if failure(name) is None)
        os.environ[VARIABLE] = next(drawing, NONE)


@functools.cache
def failure(renderer: str) -> str | None:
    """Why a renderer does not draw, in a line; None if it does.

    Tried in a process of its own: a process that has loaded one renderer cannot load the other,
    and a broken driver may end it.
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
    """The error for a renderer that failed with `error`."""
    chosen = os.environ.get(VARIABLE, "")
    if chosen == NONE:
        error = "; ".join(f"{name}: {failure(name) or 'draws'}" for name in RENDERERS)
    return UsageError(
        f"MuJoCo cannot draw here ({VARIABLE}={chosen}: {error}). Install EGL (on Debian libegl1 "
        f"and libgl1-mesa-dri, or the GPU's driver) or OSMesa (libosmesa6); {VARIABLE}=egl or "
        f"{VARIABLE}=osmesa chooses one, and unset, the first that draws is taken. The tasks "
        f"'dmc_proprio:<domain>_<task>' need neither"
    )
