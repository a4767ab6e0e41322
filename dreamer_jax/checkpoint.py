"""Checkpoints of a run (orbax): device arrays and host state, saved while training goes on."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp


class Checkpoints:
    """The newest `keep` checkpoints of a directory, numbered by env step."""

    def __init__(self, directory: Path, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(directory.absolute(), options=options)
        self._saving: dict | None = None

    def latest(self) -> int | None:
        """The newest complete checkpoint's step."""
        return self._manager.latest_step()

    def save(self, step: int, arrays: Any, host: dict) -> None:
        """Start saving; returns before the files are complete.

        Args:
            arrays: a pytree of device arrays; host: JSON data.
        """
        # A copy: the state's own buffers are donated to the next update while orbax still reads.
        arrays = jax.tree.map(jnp.copy, arrays)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardSave(arrays), host=ocp.args.JsonSave(host)
            ),
        )
        self._saving = host

    def completed(self, *, wait: bool = False) -> dict | None:
        """The host state of a save that has become durable since the last call, if any."""
        if self._saving is None or (self._manager.is_saving_in_progress() and not wait):
            return None
        self._manager.wait_until_finished()
        done, self._saving = self._saving, None
        return done

    def restore(self, step: int, shapes: Any) -> tuple[Any, dict]:
        """Read a checkpoint. Args: shapes: a tree of jax.ShapeDtypeStruct like the saved one."""
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardRestore(shapes), host=ocp.args.JsonRestore()
            ),
        )
        return restored["arrays"], restored["host"]

    def close(self) -> None:
        """Finish what is being saved."""
        self._manager.wait_until_finished()
        self._manager.close()
