"""Runs that several processes train together."""

import re
import signal
import socket

import jax
import numpy as np
import pytest
from killing import live_records, newest, rows
from process_runs import Group
from sweep_files import wait_for

from dreamer_jax.errors import UsageError
from dreamer_jax.launch.state import last_env_step
from dreamer_jax.run import processes
from dreamer_jax.run.driver import without_env_states
from dreamer_jax.run.processes import Processes, connect
from dreamer_jax.run.workdir import WorkDir

INTERACTIVE = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}  # the shell of salloc
SHORT = {"steps": 120, "eval_every": 0, "eval_episodes": 1}


def test_members_are_shared_evenly_and_in_order():
    assert [Processes(index, 4).share(8) for index in range(4)] == [
        range(0, 2),
        range(2, 4),
        range(4, 6),
        range(6, 8),
    ]
    with pytest.raises(UsageError, match="6 members .* over 4 processes; allowed: 1, 2, 3, 6"):
        Processes(0, 4).share(6)


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (("here",), {}, "'here'; allowed: host:port, slurm, k8s"),
        (("host:1",), {}, "--coordinator=host:1 needs --num_processes and --process_id"),
        (("host:1", 2), {}, "needs --process_id"),
        (("host:1", 2, 2), {}, "--process_id is 2; allowed: from 0 to 1"),
        (("slurm", 2, 0), {}, "--num_processes and --process_id are for --coordinator=host:port"),
        (
            ("slurm",),
            INTERACTIVE,
            "not set: SLURM_STEP_NODELIST, SLURM_STEP_NUM_NODES, SLURM_PROCID, SLURM_LOCALID; "
            "start the processes with srun",
        ),
        (("k8s",), {"HOSTNAME": "pod-0"}, "not set: KUBERNETES_SERVICE_HOST, JOB_COMPLETION_INDEX"),
    ],
)
def test_what_is_missing_is_named(monkeypatch, arguments, variables, message):
    for name in {*INTERACTIVE, *(n for names in processes.CLUSTERS.values() for n in names)}:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UsageError, match=re.escape(message)):
        connect(*arguments)


def test_a_first_process_that_cannot_be_reached_is_named(monkeypatch):
    monkeypatch.setattr(processes, "CONNECT_SECONDS", 0.0)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(UsageError, match=f"--coordinator is {address}, where no first process"):
        connect(address, 2, 1)


def test_a_port_that_is_taken_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"cannot listen at port {port}: .*in use"):
            connect(f"127.0.0.1:{port}", 2, 0)


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path):
    """Also when a signal to one of them stops both, and a single process resumes the run."""
    with Group(tmp_path / "one", 1, devices=8, changes=SHORT) as alone:
        assert alone.wait() == [0], alone.text()
    with Group(tmp_path / "two", 2, devices=4, changes=SHORT) as both:
        wait_for(lambda: last_env_step(WorkDir(tmp_path / "two").metrics) >= 80 or both.ended())
        both.processes[1].send_signal(signal.SIGTERM)
        assert both.wait() == [0, 0], both.text(0) + both.text(1)
    for number in range(2):
        assert f"4 of 8 members on 4 devices in process {number} of 2" in both.text(number)
        assert re.search(r"stopped at env step (8\d|9\d|1[01]\d);", both.text(number))
    with Group(tmp_path / "two", 1, devices=8, changes=SHORT) as alone:
        assert alone.wait() == [0], alone.text()
    assert "is another program than before the resume" in alone.text()
    assert rows(tmp_path / "two") == rows(tmp_path / "one")
    (arrays, host), (expected, expected_host) = (newest(tmp_path / n) for n in ("two", "one"))
    jax.tree.map(np.testing.assert_array_equal, arrays, expected)
    for member, reference in zip(host["members"], expected_host["members"], strict=True):
        # Pickled twice, an environment has the same state in other bytes.
        assert without_env_states(member["driver"]) == without_env_states(reference["driver"])
        assert {**member, "driver": None} == {**reference, "driver": None}
    records = live_records(tmp_path / "two", host)
    for key, array in live_records(tmp_path / "one", host).items():
        np.testing.assert_array_equal(records[key], array)


@pytest.mark.slow
def test_what_one_process_refuses_ends_the_other(tmp_path):
    other = ["--config.kl_scale=0.7"]
    with Group(tmp_path / "run", 2, devices=1, changes=SHORT, own_flags=[[], other]) as both:
        assert both.wait() == [2, 2], both.text(0) + both.text(1)
    assert "process 1 was given another config than process 0" in both.text(0)
    assert "kl_scale: 0.5 -> 0.7" in both.text(0) or "kl_scale: 0.1 -> 0.7" in both.text(0)
