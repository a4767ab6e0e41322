"""Sweeps on a Ray cluster of three node processes on this machine."""

import contextlib
import os
import re
import signal
import socket
from importlib.util import find_spec

import pytest
from commands import forked_command
from sweep_files import (
    JOBS,
    NAMES,
    assert_same_results,
    finished,
    start_sweep,
    wait_for,
    write_sweep,
)

from dreamer_jax.launch.local import memory_share
from dreamer_jax.run.workdir import WorkDir

# Ray forks, and JAX, which other tests of this process have started, warns of forks.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
# A mark, because a fixture would be set up after those of the session, which train a sweep.
needs_ray = pytest.mark.skipif(not find_spec("ray"), reason="needs the extra ray")


def test_a_fraction_of_a_gpu_has_its_share_of_the_memory():
    assert memory_share(0.25) == {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.225"}
    assert memory_share(1) == memory_share(2) == {}


@needs_ray
@pytest.mark.slow
def test_an_unreachable_cluster_is_named(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    for given, message in ((address, "cannot be reached"), ("here", "allowed: host:port")):
        flags = ["--config=catch_sweep", f"--workdir={tmp_path}/runs", f"--address={given}"]
        status, out, err = forked_command("sweep", *flags, "--launcher=ray", cache=tmp_path)
        assert status == 2 and message in err, err
        assert not (tmp_path / "runs").exists()


@needs_ray
@pytest.mark.slow
@pytest.mark.usefixtures("compiled_as_here")
def test_jobs_of_a_lost_node_go_on_elsewhere(undisturbed_sweep, tmp_path):
    from ray.cluster_utils import Cluster

    file, runs = write_sweep(tmp_path / "jobs.py", JOBS), tmp_path / "runs"
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        lost = cluster.add_node(num_cpus=1)
        process = start_sweep(file, runs, "--launcher=ray", f"--address={cluster.address}")
        first = WorkDir(runs / NAMES[0])
        wait_for(first.checkpoints.with_suffix(".json").exists)
        # As on a node without power, nothing there goes on.
        trainer = int(re.match(r"process (\d+) on", first.owner())[1])
        os.kill(trainer, signal.SIGSTOP)
        cluster.remove_node(lost, allow_graceful=False)
        cluster.add_node(num_cpus=1)
        with contextlib.suppress(ProcessLookupError):  # Ray's worker may have done so
            os.kill(trainer, signal.SIGKILL)
        assert not finished(runs, NAMES[0])
        output, _ = process.communicate()
        assert process.returncode == 0, output
        assert output.splitlines()[-1] == "2 jobs: 2 finished"
        assert "resuming at env step" in (runs / f"{NAMES[0]}.log").read_text()
    finally:
        cluster.shutdown()
    assert_same_results(runs, undisturbed_sweep)
