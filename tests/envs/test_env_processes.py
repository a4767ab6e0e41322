"""Tests of signals to worker processes, of programs started in them, and of their end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from env_doubles import NOTHING, exits, make_puppet, puppet, step_rows

from dreamer_jax.envs.vector.process import ProcessVector


@pytest.fixture(scope="module")
def vector():
    vector = ProcessVector([puppet()], 1)
    yield vector
    vector.close()


def test_workers_ignore_signals_to_the_group(vector):
    vector.reset()
    (worker,) = vector._workers
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(worker.process.pid, number)
    assert not step_rows(vector, [NOTHING]).failed.any()


def with_a_program():
    with subprocess.Popen(["sleep", "30"]) as program:
        program.terminate()
    assert program.returncode == -signal.SIGTERM
    return make_puppet()


def test_programs_that_environments_start_can_be_terminated(vector):
    assert vector.replace({0: with_a_program}) == []


# The order of exit handlers lets that of multiprocessing run first, if it can.
SCRIPT = """
import sys, threading, time, weakref
weakref.finalize(threading.Event(), int)
sys.path.insert(0, sys.argv[1])
from env_doubles import HANG, puppet
from dreamer_jax.envs.vector.process import ProcessVector
if __name__ == "__main__":
    vector = ProcessVector([puppet()], 1, timeout=1000.0)
    vector.reset()
    print(vector._workers[0].process.pid, flush=True)
    if sys.argv[2] == "hang":
        vector.step([HANG])
    if sys.argv[2] == "wait":
        time.sleep(1000)
"""


@pytest.fixture
def run_script(tmp_path):
    """Start the script in a mode, and return the process and the number of its worker."""
    path, started = tmp_path / "script.py", []
    path.write_text(SCRIPT)

    def run(mode):
        command = [sys.executable, str(path), str(Path(__file__).parents[1]), mode]
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        started.append(process)
        return process, int(process.stdout.readline())

    yield run
    for process in started:
        process.stdout.close()
        process.kill()
        process.wait()


def test_a_program_that_forgets_to_close_ends_with_its_workers(run_script):
    process, worker = run_script("end")
    assert process.wait(20) == 0
    assert exits(worker)


@pytest.mark.parametrize("mode", ["wait", pytest.param("hang", marks=pytest.mark.slow)])
def test_workers_do_not_outlive_a_killed_parent(run_script, mode):
    process, worker = run_script(mode)
    time.sleep(0.5)
    process.kill()
    assert exits(worker)
