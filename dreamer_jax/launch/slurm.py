"""Jobs as a SLURM array, by submitit.

Before SLURM ends a job, at its time limit or to make room for another, it sends SIGUSR2. The job
then saves, submitit has SLURM queue it again, and it resumes from its work directory.
"""

import inspect
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamer_jax.errors import UsageError, require
from dreamer_jax.launch.jobs import Job
from dreamer_jax.launch.process import LOST_NODE_SECONDS, JobProcess, settled_state, unfinished

TIME_LIMITS = 10_000  # that a job may reach and be queued again
DAY = 24 * 60  # minutes, the time limit unless the user gives another


class SlurmTask:
    """A task of the array: it trains one job. submitit calls `checkpoint` on SIGUSR2."""

    def __init__(self):
        self._process: JobProcess | None = None

    def __call__(self, job: Job) -> tuple[str, str]:
        """Train a job; return its state and the detail."""
        state = settled_state(job, LOST_NODE_SECONDS)
        if unfinished(job, state):
            self._process = JobProcess(job)
            state = self._process.wait()
        print(f"{job.name}: {state.kind} {state.detail}", flush=True)
        return state.kind, state.detail

    def checkpoint(self, job: Job) -> Any:
        """Have the job save and end; return what is to be queued again."""
        from submitit.helpers import DelayedSubmission

        if self._process is not None:
            self._process.stop()
            self._process.wait()
        return DelayedSubmission(SlurmTask(), job)


def submit(jobs: Sequence[Job], folder: Path, options: Mapping[str, str]) -> str:
    """Submit an array with a task for each job; return what the user needs to know of it.

    Args:
        jobs: the jobs; those that have finished end at once.
        folder: for the script, the tasks, and what they print.
        options: of sbatch, with underscores; `time` in minutes.

    Raises:
        UsageError: submitit or SLURM is missing, or SLURM refuses the array.
    """
    submitit = require("submitit", extra="slurm")
    if shutil.which("sbatch") is None:
        raise UsageError("there is no command sbatch; --launcher=slurm submits to a SLURM cluster")
    executor = submitit.SlurmExecutor(folder, max_num_timeout=TIME_LIMITS)
    executor.update_parameters(**_settings(folder, options))
    try:
        with executor.batch():
            tasks = [executor.submit(SlurmTask(), job) for job in jobs]
    except submitit.core.utils.FailedJobError as error:
        raise UsageError(f"SLURM refuses the jobs: {error}") from error
    array = tasks[0].job_id.partition("_")[0]
    return f"submitted {len(tasks)} jobs as {array}; what they print is in {folder}"


def script(jobs: Sequence[Job], folder: Path, options: Mapping[str, str]) -> str:
    """Return the script that `submit` gives to sbatch, without writing anything."""
    require("submitit", extra="slurm")
    from submitit.slurm.slurm import _make_sbatch_string

    command = (
        f"{shlex.quote(sys.executable)} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    )
    settings = _settings(folder, options)
    if len(jobs) > 1:
        settings["map_count"] = len(jobs)
    return _make_sbatch_string(command=command, folder=folder, **settings)


def _settings(folder: Path, options: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of submitit; what it does not know it passes on to sbatch."""
    from submitit.slurm.slurm import _make_sbatch_string

    values = {k: int(value) if value.isdecimal() else value for k, value in options.items()}
    known = inspect.signature(_make_sbatch_string).parameters
    others = {name.replace("_", "-"): v for name, v in values.items() if name not in known}
    settings = {"time": DAY, "job_name": folder.parent.name, "additional_parameters": others}
    return settings | {name: value for name, value in values.items() if name in known}
