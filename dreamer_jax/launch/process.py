"""A job in a process of its own, which runs the job's plain command."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path

from dreamer_jax.launch.jobs import Job
from dreamer_jax.launch.state import FAILED, NEW, RUNNING, UNFINISHED, State, read_state

LOST_NODE_SECONDS = 120.0  # until a lost node's processes have ended, and its locks are released


class JobProcess:
    """A process that trains a job.

    On Linux it saves and ends when the thread that started it ends, so that no process is left
    behind in the way of the next one.

    Args:
        job: the job; it is neither running nor finished.
        environment: variables of the process, in addition to those of this one.
    """

    def __init__(self, job: Job, environment: Mapping[str, str] | None = None):
        self._job, self._lock, self._stopped = job, threading.Lock(), False
        job.workdir.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(OSError):  # it exists, or the job will say what is wrong
            _share_programs(job.work.programs)
        job.work.error.unlink(missing_ok=True)
        with open(job.output, "ab") as output:
            self._offset = output.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dreamer_jax.launch.child", *job.arguments],
                env=os.environ
                | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
                | dict(environment or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a signal to the launcher's group must not arrive twice
            )

    def stop(self) -> None:
        """Ask the process to save and end."""
        with self._lock:
            if not self._stopped and self._process.poll() is None:
                self._process.terminate()  # a second time would end it at once
            self._stopped = True

    def wait(self) -> State:
        """Wait for the end of the process, and return what has become of the job."""
        # Unlike `Popen.wait`, this may be interrupted by a signal handler that waits as well.
        if hasattr(os, "waitid"):
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
        status = self._process.wait()
        state = read_state(self._job)
        if not status or self._stopped or state.kind not in (NEW, UNFINISHED):
            return state
        error = _last_error(self._job.output, self._offset)
        if status < 0:
            error = f"the process was ended by {signal.Signals(-status).name}"
        self._job.work.note_error(error)
        return read_state(self._job)


def run(job: Job, environment: Mapping[str, str] | None = None, patience: float = 0.0) -> State:
    """Train a job unless it has finished or runs elsewhere; return what has become of it.

    Args:
        job: the job.
        environment: as for `JobProcess`.
        patience: as for `settled_state`.
    """
    state = settled_state(job, patience)
    return JobProcess(job, environment).wait() if unfinished(job, state) else state


def settled_state(job: Job, patience: float) -> State:
    """Return a job's state once no process runs it, or after `patience` seconds.

    A process that has lost its node needs a while to end.
    """
    end = time.monotonic() + patience
    while (state := read_state(job)).kind == RUNNING and time.monotonic() < end:
        time.sleep(0.5)
    return state


def unfinished(job: Job, state: State) -> bool:
    """Return whether there is anything to do for a job."""
    return not job.error and state.kind in (NEW, UNFINISHED, FAILED)


def _share_programs(link: Path) -> None:
    """Make a job's directory of compiled programs a link to that of all jobs of the sweep."""
    shared = link.parent.with_name(link.name)
    shared.mkdir(exist_ok=True)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(Path("..") / shared.name)


def _last_error(output: Path, offset: int) -> str:
    """Return the message that ended a process, from what it printed after an offset."""
    with open(output, "rb") as file:
        file.seek(offset)
        text = file.read().decode(errors="replace").strip()
    _, found, message = text.rpartition("\nerror: ")
    return message if found else text.removeprefix("error: ").rpartition("\n")[2]
