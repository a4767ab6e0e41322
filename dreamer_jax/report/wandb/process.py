"""The trainer's side of W&B reporting: start the reader, pass on its warnings, end it."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from dreamer_jax.files import replacing

PACKAGE = Path(__file__).resolve().parents[2]
CLOSE_SECONDS = 60.0  # the trainer waits at its end for the reader to finish
WARNING = "W&B: "  # prefix of the reader's output lines that the trainer shows
# Characters that W&B takes. Names of runs, of which it takes 128 too, begin with the group.
MAX_TAG, MAX_GROUP = 64, 100


@dataclasses.dataclass(frozen=True)
class RunInfo:
    """A run as the reader needs to know it; JSON in `wandb/run.json` of the work directory."""

    mode: str  # "online" to upload, "offline" to write files for `wandb sync`
    entity: str | None  # user or team; None for the user's default
    project: str
    group: str
    tags: Sequence[str]  # of every W&B run
    members: Sequence[Mapping[str, Any]]  # [M] nested dicts, the config of each; each has "seed"
    action_repeat: int  # frames per env step
    command: Sequence[str]  # the trainer's program and arguments

    def save(self, workdir: Path) -> None:
        path = workdir / "wandb" / "run.json"
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(dataclasses.asdict(self)))

    @classmethod
    def load(cls, workdir: Path) -> "RunInfo":
        """Return the run that `save` described.

        Raises:
            FileNotFoundError: no run in this directory has reported to W&B.
        """
        path = workdir / "wandb" / "run.json"
        if not path.is_file():
            raise FileNotFoundError(
                f"{path} does not exist; runs with config.wandb.mode 'online' or 'offline' write it"
            )
        return cls(**json.loads(path.read_text()))


class SweepAgent(NamedTuple):
    """The run of a W&B sweep that `wandb agent` has started this process for."""

    sweep: str  # id
    run: str  # id, of the aggregate of the members
    parameters: str | None  # path of a YAML file with the values that the sweep has chosen
    entity: str | None
    project: str | None


def run_group(workdir: Path, given: str | None) -> str:
    """Return the W&B group of a run: the one given, or that of earlier starts, or a new one.

    A new one has the name of the directory, and is kept when the directory is renamed.
    """
    if given:
        return shorten(given, MAX_GROUP)
    try:
        return RunInfo.load(workdir).group
    except (OSError, ValueError, TypeError):  # no start has reported, or its record is damaged
        return shorten(workdir.resolve().name, MAX_GROUP)


def shorten(text: str, limit: int) -> str:
    """Return a text of at most `limit` characters that W&B takes; distinct texts stay distinct."""
    text = text.encode("utf-8", "replace").decode()  # names of files may hold what is no text
    if len(text) <= limit:
        return text
    return f"{text[: limit - 9]}-{zlib.crc32(text.encode()):08x}"


class WandbProcess:
    """A process that reads a work directory and reports it to W&B.

    Training waits for it only in `close`. If it fails, one warning says so and training continues,
    whatever the reason; the reader of the next start sends what is missing.
    """

    def __init__(self, workdir: Path, info: RunInfo, warn: Callable[[str], None]):
        """Start the reader without waiting for it.

        Args:
            workdir: has a metrics.jsonl.
            info: saved for the reader.
            warn: called with each warning, by `check` and `close` too.
        """
        self._warn = warn
        self._process: subprocess.Popen | None = None
        self._output: BinaryIO | None = None  # of the reader
        self._shown = 0  # bytes of the output that have been read
        environment = {
            # Absolute, because an environment may have changed the working directory.
            "PYTHONPATH": os.pathsep.join([str(PACKAGE.parent), *filter(None, sys.path)]),
            "WANDB__STATS_PID": str(os.getpid()),  # W&B samples the load of training
        }
        try:
            info.save(workdir)
            self._output = tempfile.TemporaryFile()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dreamer_jax.report.wandb", str(workdir), "--follow"],
                env=os.environ | environment,
                stdin=subprocess.PIPE,  # its end tells the reader to finish
                stdout=self._output,
                stderr=subprocess.STDOUT,
                # Ctrl-C signals the process group; the reader outlives it to send the last rows.
                start_new_session=True,
            )
        except Exception as error:
            self._end(_describe(error))

    def check(self) -> None:
        """Pass on new warnings of the reader; say once if it has ended."""
        if self._process is None:
            return
        try:
            status = self._process.poll()
            self._show_warnings()
            if status is not None:
                self._end(self._reason(status))
        except Exception as error:
            self._end(_describe(error))

    def close(self, timeout: float = CLOSE_SECONDS) -> None:
        """Have the reader send the rest and end; kill it if that takes more than `timeout` s."""
        if self._process is None:
            return
        try:
            self._process.stdin.close()
            status = self._process.wait(timeout)
            self._show_warnings()
            self._end(self._reason(status) if status else "")
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            self._end(f"not finished within {timeout:g} s")
        except Exception as error:
            self._end(_describe(error))

    def _show_warnings(self) -> None:
        # `pread`: the reader's process shares the file's position.
        output = os.pread(self._output.fileno(), 2**20, self._shown)
        lines, newline, _ = output.rpartition(b"\n")
        self._shown += len(lines + newline)
        for line in lines.decode(errors="replace").splitlines():
            if line.startswith(WARNING):
                self._warn(line)

    def _reason(self, status: int) -> str:
        """Return why the reader ended: the last line that it printed, unless a signal killed it."""
        if status < 0:
            return f"its process was ended by {signal.Signals(-status).name}"
        size = os.fstat(self._output.fileno()).st_size
        tail = os.pread(self._output.fileno(), 2**12, max(0, size - 2**12))
        lines = tail.decode(errors="replace").strip("\n")
        return lines.rpartition("\n")[2] or f"exit status {status}"

    def _end(self, failure: str) -> None:
        """Release the pipes of the reader; warn unless `failure` is empty."""
        with contextlib.suppress(OSError):
            if self._output is not None:
                self._output.close()
            if self._process is not None:
                self._process.stdin.close()
        self._process = None
        if failure:
            self._warn(
                f"{WARNING}{failure.rstrip('.')}. Reporting has ended, training continues; the "
                "next start sends what is missing"
            )


def _describe(error: Exception) -> str:
    return str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
