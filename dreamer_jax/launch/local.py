"""Jobs on this machine, in turn or several at once, each with its share of cores and GPUs."""

import os
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import NamedTuple

from dreamer_jax.errors import UsageError
from dreamer_jax.launch.jobs import Job
from dreamer_jax.launch.process import JobProcess, unfinished
from dreamer_jax.launch.state import FAILED, RUNNING, State, read_state
from dreamer_jax.run.signals import StopSignals
from dreamer_jax.runtime import count_cores

# Of a GPU's memory: beside what JAX allocates, each process has a context and libraries there.
GPU_MEMORY = 0.9
Report = Callable[[Job, State], None]  # called when a job starts, ends or is skipped


class Slot(NamedTuple):
    """The cores and variables of one job while others run."""

    cores: tuple[int, ...]
    environment: dict[str, str]


def make_slots(count: int, gpus: Sequence[str]) -> list[Slot]:
    """Divide the cores of this process, and the given GPUs, among jobs that run at once.

    Args:
        count: number of jobs at once.
        gpus: names of GPUs, as for CUDA_VISIBLE_DEVICES; none leaves that to the jobs.

    Raises:
        UsageError: the GPUs cannot be divided evenly.
    """
    if not all(gpus):
        raise UsageError(f"--gpus is {','.join(gpus)!r}; allowed: names of GPUs, as 0,1")
    if gpus and len(gpus) % count and count % len(gpus):
        raise UsageError(
            f"--at_once is {count} and there are {len(gpus)} GPUs; allowed: a divisor or a "
            "multiple of their number"
        )
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    slots = []
    for slot in range(count):
        environment = {}
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(_share(gpus, slot, count))
            environment |= memory_share(len(gpus) / count)
        slots.append(Slot(tuple(_share(cores, slot, count)), environment))
    return slots


def memory_share(gpus: float) -> dict[str, str]:
    """Return the variables of a job that has this many GPUs, or this fraction of one."""
    return {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{GPU_MEMORY * gpus:.3g}"} if gpus < 1 else {}


def run_jobs(jobs: Sequence[Job], slots: Sequence[Slot], report: Report) -> dict[str, State]:
    """Train all jobs that are neither finished nor running.

    SIGTERM and Ctrl-C have the running jobs save and end, and start no others.

    Returns:
        By name, the state of jobs that could not be started, which their directories do not show.
    """
    waiting, broken = deque(jobs), {}
    running: list[JobProcess | None] = [None] * len(slots)

    def work(number: int, stop: StopSignals) -> None:
        cores, environment = slots[number]
        if cores and len(cores) < count_cores():
            os.sched_setaffinity(0, cores)  # of this thread, and of the processes that it starts
        while not stop.requested:
            try:
                job = waiting.popleft()
            except IndexError:
                return
            state = read_state(job)
            if unfinished(job, state):
                report(job, State(RUNNING, env_step=state.env_step))
                try:
                    running[number] = process = JobProcess(job, environment)
                    state = process.wait()
                except OSError as error:  # others go on
                    state = broken[job.name] = State(FAILED, str(error))
            report(job, state)

    with StopSignals() as stop, ThreadPoolExecutor(len(slots)) as pool:
        workers = [pool.submit(work, number, stop) for number in range(len(slots))]
        while wait(workers, timeout=0.2).not_done:
            if stop.requested:
                for process in filter(None, running):
                    process.stop()
        for worker in workers:
            worker.result()
    return broken


def _share(things: Sequence, slot: int, slots: int) -> Sequence:
    """Return a slot's part of things, or its one thing if there are fewer than slots."""
    if len(things) < slots:
        return things[slot % len(things) :][:1] if things else things
    return things[slot * len(things) // slots : (slot + 1) * len(things) // slots]
