"""A sweep whose jobs take seconds, as a config file of a user, and the command that runs it."""

import json
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import PATIENCE, ROOT
from conftest import SHALLOW, make_tiny_config
from killing import compilation_variables, newest, rows

from dreamer_jax import config as config_lib
from dreamer_jax.run.workdir import WorkDir

# They differ in data alone, so that only the first compiles.
JOBS = [{"kl_scale": 0.5}, {"kl_scale": 0.2}]
NAMES = ["kl_scale=0.5", "kl_scale=0.2"]
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


def assert_same_results(workdir, reference):
    """Assert that every job of `JOBS` has the metrics and the weights that it has elsewhere."""
    for name in NAMES:
        assert rows(workdir / name) == rows(reference / name)
        arrays, expected = (newest(path / name)[0] for path in (workdir, reference))
        jax.tree.map(np.testing.assert_array_equal, arrays, expected)


def wait_for(condition):
    """Wait until a condition is true."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def compiled_as_here(monkeypatch, compilation_cache):
    """The processes of jobs compile as this one, with its compilation cache."""
    for name, value in compilation_variables().items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def undisturbed_sweep(tmp_path_factory, compilation_cache):
    """The directory of a sweep of `JOBS` that has run undisturbed; read only."""
    directory = tmp_path_factory.mktemp("sweep")
    file = write_sweep(directory / "jobs.py", JOBS)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in compilation_variables().items():
            patch.setenv(name, value)
        status, output = run_sweep(file, directory / "runs", "--launcher=local")
    assert status == 0, output
    assert output.splitlines()[-1] == "2 jobs: 2 finished"
    return directory / "runs"
