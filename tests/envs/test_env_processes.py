"""The processes that environments run in: signals, programs started there, and their end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from env_doubles import HANG, NOTHING, exits, make_puppet, puppet

from dreamer_jax.envs.vector import EnvFault, ProcessVector, make_vector


@pytest.fixture(scope="module")
def vector():
    vector = ProcessVector([puppet()], 1)
    yield vector
    vector.close()


def test_workers_ignore_signals_to_the_group(vector):
    vector.reset()
    (worker,) = vector._workers
    os.kill(worker.pid, signal.SIGTERM)
    os.kill(worker.pid, signal.SIGINT)
    assert not vector.step([NOTHING]).failed.any()


def with_a_program():
    with subprocess.Popen(["sleep", "30"]) as program:
        program.terminate()
    assert program.returncode == -signal.SIGTERM
    return make_puppet()


def test_programs_that_environments_start_can_be_terminated(vector):
    vector.replace({0: with_a_program})


# Its exit handlers run in an order in which that of multiprocessing comes first, if it can.
SCRIPT = """
import sys, threading, time, weakref
weakref.finalize(threading.Event(), int)
sys.path.insert(0, sys.argv[1])
from env_doubles import HANG, puppet
from dreamer_jax.envs.vector import ProcessVector
if __name__ == "__main__":
    vector = ProcessVector([puppet()], 1, timeout=1000.0)
    vector.reset()
    print(vector._workers[0].pid, flush=True)
    if sys.argv[2] == "hang":
        vector.step([HANG])
    if sys.argv[2] == "wait":
        time.sleep(1000)
"""


@pytest.fixture
def run_script(tmp_path):
    """Starts the script in a mode; the process and its worker's number."""
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


def test_make_vector_takes_the_timeout():
    vector = make_vector([puppet()], 1, timeout=0.5)
    vector.reset()
    with pytest.raises(EnvFault, match="hung for 0.5 seconds"):
        vector.step([HANG])
    vector.close()
