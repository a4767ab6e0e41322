"""Sweeps as SLURM arrays, on daemons of SLURM that run on this machine."""

import os
import re
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec

import pytest
from commands import forked_command
from sweep_files import (
    JOBS,
    NAMES,
    assert_same_results,
    finished,
    run_sweep,
    wait_for,
    write_sweep,
)

from dreamer_jax.launch.state import last_env_step
from dreamer_jax.run.workdir import WorkDir

pytestmark = pytest.mark.slow
DAEMONS = ("munged", "slurmctld", "slurmd")
PATH = os.environ["PATH"] + os.pathsep + "/usr/sbin"
MISSING = [name for name in (*DAEMONS, "sbatch") if shutil.which(name, path=PATH) is None]
MISSING += [] if find_spec("submitit") else ["submitit, of the extra slurm"]
# A mark, because a fixture would be set up after those of the session, which train a sweep.
needs_slurm = pytest.mark.skipif(
    bool(MISSING), reason=f"needs SLURM (Debian: slurm-wlm and munge); there is no {MISSING[:1]}"
)
CONFIG = """
ClusterName=test
SlurmctldHost=localhost
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
ReturnToService=2
MpiDefault=none
NodeName=localhost CPUs={cores} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def slurm(tmp_path_factory, monkeypatch):
    """A cluster of one node."""
    monkeypatch.setenv("PATH", PATH)
    root = tmp_path_factory.mktemp("slurm")
    root.chmod(0o755)
    for name in ("state", "spool"):
        (root / name).mkdir()
    (root / "munge.key").write_bytes(os.urandom(128))
    (root / "munge.key").chmod(0o600)
    config = CONFIG.format(
        root=root,
        user="root" if os.getuid() == 0 else os.environ["USER"],
        controller_port=free_port(),
        node_port=free_port(),
        cores=os.cpu_count(),
    )
    (root / "slurm.conf").write_text(config)
    monkeypatch.setenv("SLURM_CONF", str(root / "slurm.conf"))
    places = {
        "key-file": "munge.key", "socket": "munge.socket", "pid-file": "munge.pid",
        "log-file": "munge.log", "seed-file": "munge.seed",
    }  # fmt: skip
    commands = [
        ["munged", "-F", "--force", *(f"--{name}={root / file}" for name, file in places.items())],
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", "localhost"],
    ]
    daemons = []
    try:
        for command in commands:
            with open(root / f"{command[0]}.out", "w") as log:
                daemons.append(subprocess.Popen(command, stdout=log, stderr=log))
            if command[0] == "munged":
                wait_for((root / "munge.socket").exists)
        wait_for(lambda: "idle" in output_of("sinfo", "--noheader", "--format=%T"))
        yield root
    finally:
        subprocess.run(["scancel", "--user=root"], capture_output=True)
        for daemon in reversed(daemons):
            daemon.terminate()
            daemon.wait()


def output_of(*command):
    return subprocess.run(command, capture_output=True, text=True).stdout


@needs_slurm
@pytest.mark.usefixtures("compiled_as_here")
def test_a_preempted_job_is_queued_again_and_ends_like_an_undisturbed_one(
    slurm, undisturbed_sweep, tmp_path
):
    file, runs = write_sweep(tmp_path / "jobs.py", JOBS), tmp_path / "runs"
    flags = ["--launcher=slurm", "--slurm=time=60,cpus_per_task=1"]
    status, output = run_sweep(file, runs, *flags)
    assert status == 0, output
    array = re.search(r"submitted 2 jobs as (\d+)", output)[1]
    first = WorkDir(runs / NAMES[0])
    wait_for(lambda: 40 <= last_env_step(first.metrics))
    assert not finished(runs, NAMES[0])
    output_of("scancel", "--signal=USR2", f"{array}_0")
    wait_for(lambda: "Restarts=1" in output_of("scontrol", "show", "job", f"{array}_0"))
    output_of("scontrol", "update", f"jobid={array}_0", "starttime=now")  # else in two minutes
    wait_for(lambda: all(finished(runs, name) for name in NAMES))
    assert "resuming at env step" in (runs / f"{NAMES[0]}.log").read_text()
    wait_for(lambda: not output_of("squeue", "--noheader"))
    assert_same_results(runs, undisturbed_sweep)


def test_a_dry_run_prints_the_script(tmp_path):
    pytest.importorskip("submitit", reason="needs the extra slurm")
    flags = [
        "--config=catch_sweep", f"--workdir={tmp_path}/runs", "--launcher=slurm", "--dry_run",
        "--slurm=partition=gpu,gpus_per_node=1,time=600,cluster-constraint=a100",
    ]  # fmt: skip
    status, out, err = forked_command("sweep", *flags, cache=tmp_path)
    assert status == 0, err
    for line in (
        "array=0-7%8", "partition=gpu", "gpus-per-node=1", "time=600", "signal=USR2@90",
        "job-name=runs", "cluster-constraint=a100",
    ):  # fmt: skip
        assert f"\n#SBATCH --{line}\n" in out
    assert f"{sys.executable} -u -m submitit.core._submit {tmp_path}/runs/slurm" in out
    assert not (tmp_path / "runs").exists()


def test_a_machine_without_slurm_is_named(tmp_path, monkeypatch):
    pytest.importorskip("submitit", reason="needs the extra slurm")
    monkeypatch.setenv("PATH", str(tmp_path))
    given = ["--config=catch_sweep", f"--workdir={tmp_path}/runs", "--launcher=slurm"]
    done = subprocess.run(
        [sys.executable, "-m", "dreamer_jax", "sweep", *given], capture_output=True, text=True
    )
    assert done.returncode == 2 and "there is no command sbatch" in done.stderr
