"""A sweep whose jobs take seconds, as a config file of a user, and the command that runs it."""

import json
import subprocess
import sys
from pathlib import Path

from commands import PATIENCE, ROOT
from conftest import SHALLOW, make_tiny_config

from dreamer_jax import config as config_lib
from dreamer_jax.run.workdir import WorkDir

FILE = """
import json
from dreamer_jax import config as config_lib

def get_config(arg=""):
    return config_lib.from_json({config!r})

def sweep(add, arg):
    for overrides in json.loads({jobs!r}):
        add(**overrides)
"""


def small_config(**changes):
    """Vectors instead of images, which compile quickly."""
    small = {"length": 8, "horizon": 2, "steps": 160, "seeds": 1, "eval_every": 80, **SHALLOW}
    return make_tiny_config(task="gym:CartPole-v1", **small | changes)


def write_sweep(path, jobs, **changes):
    """Write a config file with a sweep of these overrides."""
    config = config_lib.to_json(small_config(**changes))
    Path(path).write_text(FILE.format(config=config, jobs=json.dumps(jobs)))
    return path


def start_sweep(file, workdir, *flags):
    """Start a sweep as a user does."""
    return subprocess.Popen(
        [
            sys.executable,
            "experiments/sweep.py",
            f"--config={file}",
            f"--workdir={workdir}",
            *flags,
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run_sweep(file, workdir, *flags):
    """Run a sweep; return its exit status and output."""
    process = start_sweep(file, workdir, *flags)
    output, _ = process.communicate(timeout=PATIENCE)
    return process.returncode, output


def finished(workdir, name):
    """Return whether a job has finished."""
    return WorkDir(workdir / name).read_summary() is not None
