"""The work directory of a run: its files, and the lock that makes one process its owner."""

import contextlib
import errno
import fcntl
import json
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from ml_collections import ConfigDict

from dreamer_jax import config as config_lib
from dreamer_jax.errors import UsageError
from dreamer_jax.files import replacing
from dreamer_jax.replay.ring import check_version, member_directories

_claimed: set[Path] = set()  # work directories of runs in this process


class WorkDir:
    """Paths of a run's files under one directory, absolute because environments may `chdir`.

    Raises:
        UsageError: the path is not one of a local directory.
    """

    def __init__(self, path: str | Path):
        self.path = _absolute(path)
        self.config = self.path / "config.json"
        self.environment = self.path / "environment.json"
        self.lock = self.path / "lock"
        self.metrics = self.path / "metrics.jsonl"
        self.summary = self.path / "summary.json"
        self.faults = self.path / "faults.log"
        self.error = self.path / "error.txt"  # what ended the last attempt, unless it was a signal
        self.curves = self.path / "curves.png"
        self.checkpoints = self.path / "checkpoints"
        self.videos = self.path / "videos"
        self.replay = self.path / "replay"
        self.scratch = self.path / "scratch"  # tokens of a replay on another disk
        self.programs = self.path / "programs"

    def read_config(self) -> ConfigDict:
        """Read the config of the run in this directory.

        Raises:
            FileNotFoundError: there is no run.
            UsageError: the config cannot be read.
        """
        if not self.config.is_file():
            raise FileNotFoundError(f"no run in {self.path}: {self.config} does not exist")
        try:
            return config_lib.from_json(self.config.read_text())
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{self.config} is not a config of this version: {error}") from error

    def read_summary(self) -> dict[str, Any] | None:
        """Read the result of `train`; None if the run is not finished, or the file is damaged.

        Training then resumes at the end, and writes it again.
        """
        try:
            summary = json.loads(self.summary.read_text()) if self.summary.is_file() else None
        except ValueError:
            return None
        is_whole = isinstance(summary, dict) and {"env_step", "update", "members"} <= set(summary)
        return summary if is_whole else None

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Mark the run as finished."""
        with replacing(self.summary) as path:
            path.write_text(json.dumps(summary, indent=2) + "\n")

    def owner(self) -> str | None:
        """Return the process that has claimed the directory, in words; None if there is none."""
        if self.path.resolve() in _claimed:
            return "this process"  # which would lose its lock by closing the file
        if not self.lock.is_file():
            return None
        with open(self.lock) as lock:
            try:
                # Released with the file. `claim` waits for longer than that.
                fcntl.lockf(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EAGAIN, errno.EACCES):
                    raise
                return lock.read().strip() or "another process"
        return None

    def note_error(self, text: str) -> None:
        """Write what ended a run, for those who look at the directory later."""
        with contextlib.suppress(OSError):  # whatever ended the run is the error to report
            self.path.mkdir(parents=True, exist_ok=True)
            with replacing(self.error) as path:
                path.write_text(text.strip() + "\n")

    @contextlib.contextmanager
    def claim(self, config: ConfigDict) -> Iterator[None]:
        """Lock the directory for a new run of `config`, or for resuming the run in it.

        The kernel releases the lock when the process ends, however that happens. An exception in
        the block is noted in `error.txt`, which the next claim removes. If a new run has recorded
        nothing by then, its config is removed, so that the next attempt may have another.

        Raises:
            UsageError: the directory holds a run of another config (the message lists the
                differences), or files that are no run, or another process has claimed it.
        """
        with contextlib.ExitStack() as closing:
            try:
                self._check(config)
                self.path.mkdir(parents=True, exist_ok=True)
                closing.enter_context(self._claim_in_process())
                lock = closing.enter_context(open(self.lock, "a+"))
            except OSError as error:
                raise UsageError(
                    f"{self.path} cannot be the work directory: {error.strerror}; give a directory "
                    "in which this process may write"
                ) from error
            if not _lock(lock):
                lock.seek(0)
                raise UsageError(
                    f"{self.path} is in use by {lock.read().strip() or 'another process'}; wait "
                    "for it to end, or give another work directory"
                )
            lock.truncate(0)
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            lock.write(f"process {os.getpid()} on {socket.gethostname()} since {since}\n")
            lock.flush()
            self._check(config)  # another process may have begun and ended in between
            is_new = not self.config.exists()
            with replacing(self.config) as path:
                path.write_text(config_lib.to_json(config))
            self.error.unlink(missing_ok=True)
            self.videos.mkdir(exist_ok=True)
            try:
                yield
            except Exception as error:
                self.note_error(f"{type(error).__name__}: {error}")
                if is_new and not self._found():
                    self.environment.unlink(missing_ok=True)
                    self.config.unlink()
                raise

    @contextlib.contextmanager
    def _claim_in_process(self) -> Iterator[None]:
        """Keep out other threads; closing a file releases all locks of its process on the file."""
        place = self.path.resolve()
        if place in _claimed:
            raise UsageError(f"{self.path} is in use by this process; give another work directory")
        _claimed.add(place)
        try:
            yield
        finally:
            _claimed.discard(place)

    def check_replay(self, config: ConfigDict, numbers: Iterable[int]) -> None:
        """Raise UsageError if the replay of members of the saved run is lost."""
        if config.replay.storage == "memory":
            raise UsageError(
                f"the run in {self.path} cannot be resumed: with config.replay.storage = 'memory' "
                "its replay is lost; use 'disk', or another work directory"
            )
        check_version(self.replay)
        for place in (self.replay, *member_directories(self.replay, numbers)):
            if not place.is_dir():
                raise UsageError(f"{place} is gone; the run cannot be resumed without its replay")

    def _check(self, config: ConfigDict) -> None:
        if self.config.exists():
            different = config_lib.differences(self.read_config(), config)
            if different:
                raise UsageError(
                    f"{self.path} holds a run of another config; give another work directory, or "
                    "the config that the run was started with. Differences (saved -> given):\n"
                    + "\n".join(different)
                )
        elif self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path} is a file; give a directory")
        elif found := self._found():
            raise UsageError(
                f"{self.path} holds {', '.join(found)} but no run ({self.config.name} is missing); "
                "give another directory"
            )

    def _found(self) -> list[str]:
        """Return the names of what is there that a new run would overwrite or misread."""
        saved = [
            self.checkpoints.with_suffix(end) for end in ("", ".json", ".damaged", ".replaced")
        ]
        names = ("metrics", "summary", "faults", "curves", "replay")
        outputs = [*saved, *(getattr(self, name) for name in names), self.path / "wandb.json"]
        return [path.name for path in outputs if _holds_something(path)]


def _absolute(path: str | Path) -> Path:
    """Return the absolute path of a work directory; symbolic links in it are kept."""
    given = os.fspath(path)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", given):
        raise UsageError(
            f"the work directory is {given!r}; allowed: a local directory, or one that is mounted"
        )
    if not given or "\0" in given:
        raise UsageError(f"the work directory is {given!r}; allowed: the path of a directory")
    try:
        return Path(given).expanduser().absolute()
    except RuntimeError as error:
        raise UsageError(f"the work directory is {given!r}: {error}") from error


def _holds_something(path: Path) -> bool:
    """Return whether there is a file, a directory that is not empty, or a link, but for the replay.

    The replay may be a link to another disk; checkpoints are renamed, which must not cross disks.
    """
    if path.is_symlink() and path.name != "replay":
        return True
    return any(path.iterdir()) if path.is_dir() else path.exists()


def _lock(file: IO) -> bool:
    """Lock a file exclusively; return False if another process keeps it locked.

    Not by `flock`: processes that an environment forks would inherit that lock, and keep it after
    this process has ended.
    """
    for _ in range(20):  # for a second: `WorkDir.owner` locks it for a moment
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            time.sleep(0.05)
    return False
