"""Jobs as tasks on a Ray cluster, which places them and starts those of lost nodes elsewhere."""

import socket
from collections.abc import Mapping, Sequence

from dreamer_jax.errors import UsageError, require
from dreamer_jax.launch.jobs import Job
from dreamer_jax.launch.local import Report, memory_share
from dreamer_jax.launch.process import LOST_NODE_SECONDS, run, unfinished
from dreamer_jax.launch.state import FAILED, State, read_state

CONNECT_SECONDS = 10.0


def run_jobs(
    jobs: Sequence[Job], report: Report, *, address: str | None, gpus: float, cpus: int
) -> dict[str, State]:
    """Train all jobs that are neither finished nor running, and wait for them.

    Args:
        jobs: their work directories must be on storage that all nodes share.
        report: called when a job ends or is skipped.
        address: 'host:port' of the cluster, or 'auto' for the one on this machine; None starts one.
        gpus, cpus: GPUs, or the fraction of one, and cores of each job.

    Returns:
        By name, the state of jobs that could not be started, which their directories may not show.

    Raises:
        UsageError: Ray is missing, or there is no cluster at the address.
    """
    ray = require("ray", extra="ray")
    _connect(ray, address)
    # On a CPU, every core is a device of JAX: as many on every node.
    environment = {"JAX_NUM_CPU_DEVICES": str(cpus), **memory_share(gpus or 1)}
    # A lost node is no fault of the job: it starts elsewhere as often as needed. Failures of the
    # job itself are states that `_task` returns.
    task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=-1)(_task)
    try:
        waiting, broken = {}, {}
        for job in jobs:
            state = read_state(job)
            if unfinished(job, state):
                waiting[task.remote(job, environment)] = job
            else:
                report(job, state)
        while waiting:
            (done,), _ = ray.wait([*waiting], num_returns=1)
            job = waiting.pop(done)
            try:
                report(job, ray.get(done))
            except ray.exceptions.RayError as error:  # others go on
                text = f"{type(error).__name__}: {error}"
                job.work.note_error(text)
                broken[job.name] = State(FAILED, text)
                report(job, broken[job.name])
        return broken
    finally:
        ray.shutdown()


def _task(job: Job, environment: Mapping[str, str]) -> State:
    return run(job, environment, patience=LOST_NODE_SECONDS)


def _connect(ray, address: str | None) -> None:
    host, colon, port = (address or "").rpartition(":")
    if colon and port.isdecimal():
        try:
            socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
        except OSError as error:
            raise UsageError(f"--address is {address}, which cannot be reached: {error}") from error
    elif address not in (None, "auto"):
        raise UsageError(f"--address is {address!r}; allowed: host:port, or auto")
    try:
        ray.init(address=address or "local", log_to_driver=False, include_dashboard=False)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(f"no Ray cluster at --address={address}: {error}") from error
