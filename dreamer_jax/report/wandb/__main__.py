"""Send a run to Weights & Biases: a W&B run per member and one of their aggregates.

    python -m dreamer_jax.report.wandb WORKDIR

sends what W&B lacks of a finished or interrupted run, for instance after the network was down. The
run was trained with `config.wandb.mode` 'online' or 'offline'; ids and progress are kept in
`wandb.json`, so nothing is sent twice. While the run trains, the same program follows it.
"""

import argparse
import contextlib
import fcntl
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import TextIO

from dreamer_jax.report.wandb.process import CLOSE_SECONDS, WARNING, RunInfo, SweepAgent

POLL_SECONDS = 0.5
# Variables that describe a W&B run of the user or of `wandb agent`, in whose process or program the
# training may run: ours would take its place, or be given its service and end it.
FOREIGN = (
    "SERVICE RUN_GROUP NAME NOTES TAGS JOB_TYPE RESUME RUN_DIR DIR LAUNCH LAUNCH_CONFIG_PATH "
    "PROGRAM"
).split()
# Allowed after the end of the trainer. A reader reaches it only if the trainer has been killed.
END_SECONDS = CLOSE_SECONDS + 30


def main() -> None:
    """Run the program."""
    parser = argparse.ArgumentParser(prog="python -m dreamer_jax.report.wandb", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("workdir", type=Path, help="work directory of the run")
    text = "send rows as they are written, until standard input is closed"
    parser.add_argument("--follow", action="store_true", help=text)
    arguments = parser.parse_args()
    ended = threading.Event()
    if arguments.follow:
        threading.Thread(target=_watch_input, args=(ended,), daemon=True).start()
    else:
        ended.set()
    for name in FOREIGN:
        os.environ.pop(f"WANDB_{name}", None)
    try:
        info = RunInfo.load(arguments.workdir)
        with claim(arguments.workdir):
            send(arguments.workdir, info, ended, warn=lambda text: _print(WARNING + text))
    except Exception as error:
        _exit(" ".join(f"{type(error).__name__}: {error}".split()))


def send(workdir: Path, info: RunInfo, ended: threading.Event, warn: Callable[[str], None]) -> None:
    """Send the rows and videos of a run as they are written.

    Once `ended` is set, the run writes no more: the rest is sent, and the W&B runs are finished.
    """
    # W&B reports its own errors to its server, even offline; the process waits 10 s for an answer
    # before it exits.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    agent = take_agent(os.environ)
    # Imports wandb, which reads the environment.
    from dreamer_jax.report.wandb.session import WandbSession

    session = WandbSession(workdir, info, warn, agent)
    last = False
    while not last:
        last = ended.wait(POLL_SECONDS)
        # Videos are drawn after the rows of their step, and come with the next rows.
        if session.send_rows() or last:
            session.send_videos()
    session.finish()


def take_agent(environment: MutableMapping[str, str]) -> SweepAgent | None:
    """Remove what `wandb agent` has set for one run of its sweep, and return it.

    Left in place, W&B would make every run that is opened here this one run.
    """
    names = ("WANDB_SWEEP_ID", "WANDB_RUN_ID", "WANDB_SWEEP_PARAM_PATH")
    sweep, run, parameters = (environment.pop(name, None) for name in names)
    if sweep is None or run is None:
        return None
    entity, project = (environment.get(f"WANDB_{name}") for name in ("ENTITY", "PROJECT"))
    return SweepAgent(sweep, run, parameters, entity, project)


@contextlib.contextmanager
def claim(workdir: Path) -> Iterator[None]:
    """Be the only reader of a work directory during the block; wait for another one to end."""
    with open(workdir / "wandb" / "lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"waiting for another reader of {workdir} to end", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _watch_input(ended: threading.Event) -> None:
    """Set `ended` when standard input ends, as it does however the trainer ends."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    ended.set()
    time.sleep(END_SECONDS)
    _exit(f"not finished within {END_SECONDS:g} s")


def _exit(reason: str) -> None:
    """End the process with its last line; exit hooks of W&B would wait, or print more."""
    _print(reason, file=sys.stderr)
    os._exit(1)


def _print(text: str, file: TextIO | None = None) -> None:
    with contextlib.suppress(OSError):  # a full disk or a closed terminal
        print(text, file=file, flush=True)


if __name__ == "__main__":
    main()
