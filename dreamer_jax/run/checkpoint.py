"""Checkpoints of a run (orbax): device arrays and host state, saved while training goes on."""

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import (
    AnyPreservationPolicy,
    EveryNStepsClosest,
    LatestN,
)

from dreamer_jax.files import DISK_FULL, damage, digest, replacing


class DamagedCheckpoint(Exception):
    """A checkpoint that cannot be trusted."""


class Checkpoints:
    """The checkpoints in a directory, numbered by env step.

    Args:
        directory: a directory of their own.
        keep: how many of the newest to keep; None to only read.
        keep_every: also keep those nearest to the multiples of so many env steps; 0: none.
    """

    def __init__(self, directory: Path, keep: int | None = None, keep_every: int = 0):
        self.directory = directory.absolute()
        # Beside the checkpoints, so that it tells of them when they have been deleted.
        self._digests_file = self.directory.with_suffix(".json")
        self._damaged = self.directory.with_suffix(".damaged")
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._saving: tuple[Future[None], dict] | None = None
        self._failed = False
        if keep is None:
            options = ocp.CheckpointManagerOptions(create=False)
        else:
            policies = [LatestN(keep)] + ([EveryNStepsClosest(keep_every)] if keep_every else [])
            options = ocp.CheckpointManagerOptions(
                preservation_policy=AnyPreservationPolicy(policies),
                cleanup_tmp_directories=True,  # of a process that was killed while it saved
                enable_async_checkpointing=True,
            )
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def steps(self) -> list[int]:
        """The env steps of all checkpoints, newest first."""
        return sorted(self._manager.all_steps(), reverse=True)

    def had_any(self) -> bool:
        """Whether a checkpoint was ever completed here, even if it is gone now."""
        return self._digests_file.exists() or self._damaged.is_dir()

    def save(self, step: int, arrays: Any, host: dict, before: Callable[[], None]) -> None:
        """Start saving; returns before the files are complete. A step that is there is not saved.

        Args:
            arrays: a pytree of device arrays; host: JSON data.
            before: called in another thread before the checkpoint counts as complete.
        """
        if step in self._manager.all_steps():
            return
        # A copy: the state's own buffers are donated to the next update while orbax still reads.
        arrays = jax.tree.map(jnp.copy, arrays)
        with self._writing(step):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    arrays=ocp.args.StandardSave(arrays), host=ocp.args.JsonSave(host)
                ),
            )
        self._saving = self._pool.submit(self._complete, step, before), host

    def completed(self, *, wait: bool = False) -> dict | None:
        """The host state of a save that has become durable since the last call, if any.

        Raises:
            OSError: it could not be written; the checkpoints before it are intact.
        """
        if self._saving is None or not (wait or self._saving[0].done()):
            return None
        (saved, host), self._saving = self._saving, None
        saved.result()
        return host

    def restore(self, step: int, shapes: Any) -> tuple[Any, dict]:
        """Read a checkpoint.

        Args:
            shapes: a tree of jax.ShapeDtypeStruct like the saved one.

        Raises:
            DamagedCheckpoint: its files are not as they were written.
        """
        wanted = self._read_digests().get(str(step))
        problem = damage(self.directory / str(step), wanted or {})
        if problem:
            raise DamagedCheckpoint(problem)
        try:
            restored = self._manager.restore(
                step,
                args=ocp.args.Composite(
                    arrays=ocp.args.StandardRestore(shapes), host=ocp.args.JsonRestore()
                ),
            )
        except Exception as error:
            if wanted is not None:
                raise  # whole, yet not readable: not the files' fault
            raise DamagedCheckpoint(f"{type(error).__name__}: {error}") from error
        return restored["arrays"], restored["host"]

    def set_aside(self, step: int) -> Path:
        """Move a checkpoint out of the way; to where."""
        source, target = self.directory / str(step), self._damaged / str(step)
        while target.exists():
            target = target.with_name(target.name + "+")
        target.parent.mkdir(exist_ok=True)
        source.rename(target)
        self._manager.reload()
        return target

    def close(self) -> None:
        """Finish what is being saved."""
        self._pool.shutdown(wait=True)
        # It raises again what has failed before.
        with contextlib.suppress(Exception) if self._failed else contextlib.nullcontext():
            self._manager.close()

    def _complete(self, step: int, before: Callable[[], None]) -> None:
        with self._writing(step):
            before()
            self._manager.wait_until_finished()
            digests = self._read_digests()
            steps = map(str, self._manager.all_steps())
            digests = {name: digests[name] for name in steps if name in digests}
            digests[str(step)] = digest(self.directory / str(step))
            with replacing(self._digests_file) as path:
                path.write_text(json.dumps(digests))

    @contextlib.contextmanager
    def _writing(self, step: int) -> Iterator[None]:
        """Name what could not be written, and give back the space that it had taken."""
        try:
            yield
        except Exception as error:
            self._failed = True
            with contextlib.suppress(Exception):
                self._manager.wait_until_finished()  # what still writes must not meet missing files
            left = self.directory.glob(f"{step}.orbax-checkpoint-tmp*")
            for path in (self.directory / str(step), *left):
                shutil.rmtree(path, ignore_errors=True)
            self._manager.reload()
            # Orbax raises errors of its own, with the system's text in them.
            full = next((code for code in DISK_FULL if os.strerror(code) in str(error)), None)
            reason = "the disk is full" if full else f"{type(error).__name__}: {error}"
            raise OSError(
                full or errno.EIO,
                f"the checkpoint of env step {step} could not be written ({reason})",
                str(self.directory),
            ) from error

    def _read_digests(self) -> dict[str, dict]:
        try:
            return json.loads(self._digests_file.read_text()) if self._digests_file.exists() else {}
        except ValueError:
            return {}  # damaged: checkpoints can still be told by whether they can be read
