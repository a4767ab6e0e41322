"""The work directory of a run: its files, and the lock that makes one process its owner."""

import contextlib
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from dreamer_jax import config as config_lib
from dreamer_jax.errors import UsageError
from dreamer_jax.files import replacing


class WorkDir:
    """Paths of a run's files under one directory."""

    def __init__(self, path: str | Path):
        self.path = Path(path).expanduser()
        self.config = self.path / "config.json"
        self.environment = self.path / "environment.json"
        self.lock = self.path / "lock"
        self.metrics = self.path / "metrics.jsonl"
        self.summary = self.path / "summary.json"
        self.faults = self.path / "faults.log"
        self.curves = self.path / "curves.png"
        self.checkpoints = self.path / "checkpoints"
        self.videos = self.path / "videos"
        self.replay = self.path / "replay"

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
        """Read the result of `train`; None if the run is not finished."""
        try:
            return json.loads(self.summary.read_text()) if self.summary.is_file() else None
        except ValueError:
            return None  # damaged: training resumes at the end, and writes it again

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Mark the run as finished."""
        with replacing(self.summary) as path:
            path.write_text(json.dumps(summary, indent=2) + "\n")

    @contextlib.contextmanager
    def claim(self, config: ConfigDict) -> Iterator[None]:
        """Lock the directory for a new run of `config`, or for resuming the run in it.

        The kernel releases the lock when the process ends, however that happens.

        Raises:
            UsageError: the directory holds a run of another config (the message lists the
                differences), or files that are no run, or another process has claimed it.
        """
        self._check(config)
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.lock, "a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise UsageError(
                    f"{self.path} is in use by {lock.read().strip() or 'another process'}; wait "
                    "for it to end, or give another work directory"
                ) from None
            lock.truncate(0)
            since = time.strftime("%Y-%m-%d %H:%M:%S")
            lock.write(f"process {os.getpid()} on {socket.gethostname()} since {since}\n")
            lock.flush()
            self._check(config)  # another process may have begun and ended in between
            self.videos.mkdir(exist_ok=True)
            with replacing(self.config) as path:
                path.write_text(config_lib.to_json(config))
            yield

    def check_replay(self, config: ConfigDict) -> None:
        """Raise UsageError if the replay of the saved run is lost."""
        if config.replay.storage == "memory":
            raise UsageError(
                f"the run in {self.path} cannot be resumed: with config.replay.storage = 'memory' "
                "its replay is lost; use 'disk', or another work directory"
            )
        if not self.replay.is_dir():
            raise UsageError(f"{self.replay} is gone; the run cannot be resumed without its replay")

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
        elif self.path.is_dir() and any(path != self.lock for path in self.path.iterdir()):
            raise UsageError(f"{self.path} is not empty and holds no run; give another directory")
