"""The state of a job, read from its work directory alone."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dreamer_jax import config as config_lib
from dreamer_jax.errors import UsageError
from dreamer_jax.launch.jobs import Job

NEW, RUNNING, UNFINISHED = "not begun", "running", "unfinished"
FINISHED, FAILED = "finished", "failed"
TAIL = 2**16  # bytes at the end of metrics.jsonl that hold its last complete line


class State(NamedTuple):
    """The state of a job."""

    kind: str  # one of the names above
    detail: str = ""  # the process of a running job, the error of a failed one
    env_step: int = 0  # of the last log line


def read_state(job: Job) -> State:
    """Return the state of a job, FAILED if something in its directory cannot be read."""
    if job.error:
        return State(FAILED, job.error)
    try:
        return _read_state(job)
    except (OSError, ValueError) as error:
        return State(FAILED, f"{job.workdir}: {type(error).__name__}: {error}")


def _read_state(job: Job) -> State:
    work = job.work
    if not work.config.is_file():
        failed = work.error.is_file()
        return State(FAILED, work.error.read_text().strip()) if failed else State(NEW)
    conflict = _conflict(job)
    if conflict:
        return State(FAILED, conflict)
    summary = work.read_summary()
    if summary is not None and summary["env_step"] >= job.config.steps:
        return State(FINISHED, env_step=summary["env_step"])
    env_step, owner = last_env_step(work.metrics), work.owner()
    if owner is not None:
        return State(RUNNING, owner, env_step)
    if work.error.is_file():
        return State(FAILED, work.error.read_text().strip(), env_step)
    return State(UNFINISHED, env_step=env_step)


def last_env_step(path: Path) -> int:
    """Return the env step of the last complete line of a metrics.jsonl; 0 if it has none."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - TAIL))
            lines = file.read().split(b"\n")[:-1]
        return json.loads(lines[-1])["env_step"]
    except (OSError, IndexError, ValueError, KeyError):
        return 0


def others(root: Path, jobs: Iterable[Job]) -> list[str]:
    """Return the names of runs in a sweep's directory that belong to none of its jobs."""
    known = {job.name for job in jobs}
    found = {path.parent.name for path in root.glob("*/config.json")}
    return sorted(found - known)


def _conflict(job: Job) -> str:
    """Return why a job cannot resume the run in its work directory, or ''."""
    try:
        # Reading a config takes longer than comparing its text, which is usually the same.
        if job.work.config.read_text() == config_lib.to_json(job.config):
            return ""
        changed = config_lib.differences(job.work.read_config(), job.config)
    except UsageError as error:
        return str(error)
    if not changed:
        return ""
    lines = "; ".join(line.strip() for line in changed)
    return f"the work directory holds a run of another config (saved -> given): {lines}"
