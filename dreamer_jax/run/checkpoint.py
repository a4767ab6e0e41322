"""Checkpoints of a run: verified files, the times to save, and the checkpoint to resume from.

Orbax saves a checkpoint while training continues. It holds device arrays, and host data:
`env_step`, `update`, `due`, `log`, and `members`, one record per member with its state in every
component. Of the replay it holds only cursors: the replay's own files keep every record that the
two newest checkpoints refer to. Only the state of a loop on the device is part of the arrays, with
the records that its replay holds so far, under the name `loop`. It is an item of its own, so that
agents are read without it.
"""

import contextlib
import errno
import itertools
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from etils import epath

from dreamer_jax.errors import UsageError
from dreamer_jax.files import DISK_FULL, damage, digest, replacing
from dreamer_jax.replay.device import with_empty_slots, with_slots, written_part
from dreamer_jax.replay.replay import Replay
from dreamer_jax.run.processes import ALONE, Processes

REPLACED = "replaced/"  # prefix of the name of a checkpoint, among the checksums
LOOP = "loop"  # name, among the arrays, of the state of a loop on the device with its replay


class DamagedCheckpoint(Exception):
    """A checkpoint that cannot be trusted."""


class Checkpoints:
    """The checkpoints in a directory, numbered by env step.

    A file beside the directory has the checksums of every checkpoint. They are written when all
    that belongs to it is on disk: a checkpoint newer than all in the file was not completed.

    Args:
        directory: holds nothing but the checkpoints.
        keep: number of the newest to keep; None opens the directory for reading only.
        keep_every: also keep the checkpoints nearest to the multiples of this many env steps;
            0 keeps none.
        processes: those of the run, each of which opens the directory and makes the same calls.
    """

    def __init__(
        self,
        directory: Path,
        keep: int | None = None,
        keep_every: int = 0,
        processes: Processes = ALONE,
    ):
        self.directory, self._processes = directory.absolute(), processes
        # The directory's parent, by a path that orbax reads as the system does.
        self._closing = contextlib.ExitStack()
        self._root = self._closing.enter_context(_plain_path(self.directory.parent))
        # Beside the directory, so that it proves that there were checkpoints if all are deleted.
        self._digests_file = self.directory.with_suffix(".json")
        self._damaged = self.directory.with_suffix(".damaged")
        self._replaced = self.directory.with_suffix(".replaced")
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._saving: tuple[Future[None], dict] | None = None
        self._failed = False
        if keep is None:
            options = ocp.CheckpointManagerOptions(create=False)
        else:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._undo_replacement()  # of a process that was killed while it saved
            self._remove_incomplete()  # likewise
            self._processes.exchange(None)  # before another one looks for checkpoints
            options = ocp.CheckpointManagerOptions(
                cleanup_tmp_directories=True,
                enable_async_checkpointing=True,
            )
        self._keep, self._keep_every = keep, keep_every
        path = self._root / self.directory.name
        self._manager = ocp.CheckpointManager(path, options=options)

    def steps(self) -> list[int]:
        """Return the env steps of all complete checkpoints, newest first."""
        complete = _numbered(self.directory) - self._incomplete()
        return sorted(map(int, complete | _numbered(self._replaced)), reverse=True)

    def check_left(self) -> None:
        """Raise UsageError if there are no checkpoints, but there once were."""
        had_any = self._damaged.is_dir() or (
            self._digests_file.exists() and self._read_digests() != {}
        )
        if had_any and not self.steps():
            raise UsageError(
                f"the checkpoints of this run are gone or damaged ({self.directory}); put one "
                "back, or start over in another work directory"
            )

    def save(self, step: int, arrays: Any, host: dict, before: Callable[[], None]) -> None:
        """Start saving; return before the files are complete.

        A checkpoint of the same step is replaced, and kept until the new one is complete.

        Args:
            step: the env step.
            arrays: a pytree of device arrays.
            host: JSON data.
            before: called in another thread before the checkpoint counts as complete.

        Raises:
            OSError: the checkpoint could not be written; the earlier ones are intact.
        """
        # Copies: the state's own buffers are donated to the next update while orbax still reads.
        items = {
            name: _host_copy(item) if name == LOOP else jax.tree.map(jnp.copy, item)
            for name, item in _items(arrays).items()
        }
        shapes = {
            name: [leaf.shape for leaf in jax.tree.leaves(jax.eval_shape(_key_data, item))]
            for name, item in items.items()
        }
        if self._processes.first:
            self._make_way(str(step))
        self._processes.exchange(None)
        self._manager.reload()
        with self._writing(step):
            data = {name: ocp.args.StandardSave(item) for name, item in items.items()}
            data["host"] = ocp.args.JsonSave(host)
            self._manager.save(step, args=ocp.args.Composite(**data))
        self._saving = self._pool.submit(self._complete, step, shapes, host, before), host

    def completed(self, *, wait: bool = False) -> dict | None:
        """Return the host data of a save that became durable since the last call, if any.

        Raises:
            OSError: as in `save`.
        """
        if self._saving is None or not (wait or self._saving[0].done()):
            return None
        (saved, host), self._saving = self._saving, None
        saved.result()
        return host

    def restore(self, step: int, shapes: Any) -> tuple[Any, dict]:
        """Read the arrays and the host data of a checkpoint.

        Args:
            step: the env step.
            shapes: a tree of `jax.ShapeDtypeStruct` like the saved arrays; the `loop` may be left
                out, and is then not read.

        Raises:
            DamagedCheckpoint: the files are not as they were written.
            UsageError: they hold arrays of other shapes.
        """
        is_here = str(step) in _numbered(self.directory) - self._incomplete()
        if not is_here and str(step) in _numbered(self._replaced):
            options = ocp.CheckpointManagerOptions(create=False)
            path = self._root / self._replaced.name
            with ocp.CheckpointManager(path, options=options) as manager:
                return _read(manager, step, shapes, verified=False)
        # By the first process, so that all agree.
        digests = (self._read_digests() if self._processes.first else None) or {}
        expected = digests.get(str(step))
        problem = damage(self.directory / str(step), expected or {})
        problem, verified = self._processes.exchange((problem, expected is not None))[0]
        if problem:
            raise DamagedCheckpoint(problem)
        if verified:
            _check_shapes(self._root / self.directory.name / str(step), shapes)
        return _read(self._manager, step, shapes, verified=verified)

    def set_aside(self, step: int) -> Path:
        """Move a damaged checkpoint out of the way, and return its new place."""
        source, target = self.directory / str(step), self._damaged / str(step)
        while target.exists():
            target = target.with_name(target.name + "+")
        self._processes.exchange(None)
        if self._processes.first:
            target.parent.mkdir(exist_ok=True)
            source.rename(target)
        self._processes.exchange(None)
        self._manager.reload()
        return target

    def close(self) -> None:
        """Wait for the save in progress."""
        with self._closing:
            self._pool.shutdown(wait=True)
            # The manager raises a reported failure a second time.
            with contextlib.suppress(Exception) if self._failed else contextlib.nullcontext():
                self._manager.close()

    def _complete(
        self, step: int, shapes: dict[str, list], host: dict, before: Callable[[], None]
    ) -> None:
        with self._writing(step):
            before()
            self._processes.exchange(None, "saves")  # all have done so
            self._manager.wait_until_finished()
            if not self._processes.first:
                return
            _check_readable(self._root / self.directory.name / str(step), shapes, host)
            names = _numbered(self.directory)
            digests = self._known_digests() | {str(step): digest(self.directory / str(step))}
            kept = self._kept([int(name) for name in digests if name in names])
            self._write_digests({name: digests[name] for name in kept})
        # Not before: until now each of them was the newest that a killed run could resume from.
        for path in (self._replaced, *(self.directory / name for name in names - kept)):
            shutil.rmtree(path, ignore_errors=True)

    def _kept(self, steps: Sequence[int]) -> set[str]:
        """Return the newest steps and those nearest to multiples, as names."""
        kept = set(sorted(steps)[-self._keep :])
        if every := self._keep_every:
            for multiple, group in itertools.groupby(sorted(steps), lambda s: round(s / every)):
                kept.add(min(group, key=lambda s, near=every * multiple: abs(s - near)))
        return set(map(str, kept))

    def _make_way(self, name: str) -> None:
        """Make the checkpoint of a step that is about to be saved incomplete until it is saved.

        One that is there already moves out of the directory.
        """
        digests, is_there = self._known_digests(), name in _numbered(self.directory)
        is_known = name in digests  # perhaps as one that someone has deleted
        old = digests.pop(name, None)
        if is_there:
            digests[REPLACED + name] = old
        if is_there or is_known or not self._digests_file.exists():
            self._write_digests(digests)
        if is_there:
            self._replaced.mkdir(exist_ok=True)
            (self.directory / name).rename(self._replaced / name)

    def _undo_replacement(self) -> None:
        """Put a replaced checkpoint back unless the new one is complete."""
        if not self._processes.first:
            return
        digests = self._known_digests()
        keys = {key.removeprefix(REPLACED) for key in digests if key.startswith(REPLACED)}
        for name in keys | _numbered(self._replaced):
            old = digests.pop(REPLACED + name, None)
            is_complete = name in digests and name in _numbered(self.directory)
            if not is_complete and name in _numbered(self._replaced):
                shutil.rmtree(self.directory / name, ignore_errors=True)
                (self._replaced / name).rename(self.directory / name)
            digests.setdefault(name, old)
        if digests != self._known_digests():
            self._write_digests(digests)
        shutil.rmtree(self._replaced, ignore_errors=True)

    def _remove_incomplete(self) -> None:
        if self._processes.first:
            for name in self._incomplete():
                shutil.rmtree(self.directory / name)

    def _incomplete(self) -> set[str]:
        """Return the names of checkpoints that were being saved when a process was killed.

        Also of one that is being saved now. One that is older than those with checksums was put
        back by someone.
        """
        digests = self._read_digests()
        if digests is None:
            return set()
        found = _numbered(self.directory)
        # Those that someone has deleted say nothing, unless none is left.
        known = [key for key in digests if key.startswith(REPLACED) or key in found] or digests
        newest = max((int(key.removeprefix(REPLACED)) for key in known), default=-1)
        return {name for name in found - set(digests) if int(name) >= newest}

    @contextlib.contextmanager
    def _writing(self, step: int) -> Iterator[None]:
        """On failure, name the checkpoint and release the space that it took."""
        try:
            yield
        except Exception as error:
            self._failed = True
            with contextlib.suppress(Exception):
                self._manager.wait_until_finished()  # a running write must not miss its files
            parts = self.directory.glob(f"{step}.orbax-checkpoint-tmp*")
            for path in (*parts, self.directory / str(step)):
                shutil.rmtree(path, ignore_errors=True)
            self._undo_replacement()
            self._manager.reload()
            # Orbax raises errors of its own, with the system's text in them.
            full = next((code for code in DISK_FULL if os.strerror(code) in str(error)), None)
            reason = "the disk is full" if full else f"{type(error).__name__}: {error}"
            raise OSError(
                full or errno.EIO,
                f"the checkpoint of env step {step} could not be written ({reason})",
                str(self.directory),
            ) from error

    def _read_digests(self) -> dict[str, dict | None] | None:
        """Return the checksums of each checkpoint, None if they are not known.

        Those of one that is being replaced have the prefix REPLACED.

        Returns:
            None if the file is missing or damaged: a checkpoint is then intact if it can be read.
        """
        try:
            digests = json.loads(self._digests_file.read_text())
        except (OSError, ValueError):
            return None
        is_one = isinstance(digests, dict) and all(
            key.removeprefix(REPLACED).isdecimal() and isinstance(files, dict | None)
            for key, files in digests.items()
        )
        return digests if is_one else None

    def _known_digests(self) -> dict[str, dict | None]:
        """Return the checksums of all checkpoints that are there, or that there once were."""
        digests = self._read_digests()
        return dict.fromkeys(_numbered(self.directory)) if digests is None else digests

    def _write_digests(self, digests: Mapping[str, dict | None]) -> None:
        with replacing(self._digests_file) as path:
            path.write_text(json.dumps(digests))


def _numbered(directory: Path) -> set[str]:
    """Return the names of the checkpoints in a directory."""
    return {path.name for path in directory.glob("*") if path.name.isdecimal() and path.is_dir()}


@contextlib.contextmanager
def _plain_path(directory: Path) -> Iterator[Path]:
    """Yield a path of a directory in which orbax and its libraries find no pattern and no URL.

    They expand `[1]`, turn a backslash into a slash, and read `gs:/` as a bucket. A directory with
    such a path is reached through a symbolic link in the directory for temporary files.

    Raises:
        UsageError: that directory has such a path too.
    """
    if _is_plain(directory):
        yield directory
        return
    with tempfile.TemporaryDirectory(prefix="dreamer_jax_") as temporary:
        link = Path(temporary) / "run"
        if not _is_plain(link):
            raise UsageError(
                f"checkpoints cannot be saved in {str(directory)!r}, whose name has special "
                f"characters, through a link in {str(link.parent)!r}, which has some too; allowed: "
                "letters, digits and any of . _ + = , @ - in either (see TMPDIR)"
            )
        link.symlink_to(directory)
        yield link


def _is_plain(path: Path) -> bool:
    ordinary = re.fullmatch(r"[A-Za-z0-9/._+=,@ -]{1,2000}", str(path))
    return bool(ordinary) and os.fspath(epath.Path(path)) == str(path)


def _items(arrays: Any) -> dict[str, Any]:
    """Return the items of a checkpoint that hold arrays, by name."""
    if not isinstance(arrays, Mapping) or LOOP not in arrays:
        return {"arrays": arrays}
    others = {name: tree for name, tree in arrays.items() if name != LOOP}
    return {"arrays": others, LOOP: arrays[LOOP]}


def _host_copy(loop: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy in the host's memory, since the device may not have room for two replays."""

    def copy(x: jax.Array) -> np.ndarray | jax.Array:
        return jnp.copy(x) if _is_key(x) else np.array(x)

    return {"state": jax.tree.map(copy, loop["state"]), "replay": written_part(loop["replay"])}


def _items_as_saved(shapes: Any, directory: Path) -> dict[str, Any]:
    """Return the items' shapes, those of the replay with as many slots as a checkpoint holds."""
    items = _items(shapes)
    if LOOP in items:
        found = _shapes_by_name(_metadata(directory / LOOP)).get("replay/records/is_last", ())
        if len(found) == 3:  # else it is of another environment
            replay = with_slots(items[LOOP]["replay"], found[2])
            items[LOOP] = {**items[LOOP], "replay": replay}
    return items


def _is_key(x: Any) -> bool:
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def _key_data(arrays: Any) -> Any:
    """Return a tree of arrays with random keys as the integers that are saved for them."""

    def data(x: jax.Array) -> jax.Array:
        return jax.random.key_data(x) if _is_key(x) else x

    return jax.tree.map(data, arrays)


def _check_shapes(directory: Path, shapes: Any) -> None:
    """Raise UsageError if a checkpoint is not of these shapes."""
    for item, expected in _items_as_saved(shapes, directory).items():
        found = _shapes_by_name(_metadata(directory / item))
        for name, shape in _shapes_by_name(jax.eval_shape(_key_data, expected)).items():
            if found.get(name) != shape:
                raise UsageError(
                    f"the checkpoint of env step {directory.name} fits another environment: {name} "
                    f"is {found.get(name, 'missing')} in it, and {shape} here"
                )


def _shapes_by_name(tree: Any) -> dict[str, tuple]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = (jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves)
    return dict(zip(names, (tuple(leaf.shape) for _, leaf in leaves), strict=True))


def _metadata(directory: Path) -> Any:
    """Return the tree of metadata of an item's arrays."""
    return ocp.StandardCheckpointHandler().metadata(epath.Path(directory)).tree


def _check_readable(directory: Path, shapes: Mapping[str, list], host: dict) -> None:
    """Raise ValueError unless a checkpoint's arrays can be opened, and its host data be read.

    Opening an array reads its entry in the index, not its contents, whose checksums are taken next.
    """
    for item, expected in shapes.items():
        found = [tuple(array.shape) for array in jax.tree.leaves(_metadata(directory / item))]
        if sorted(found) != sorted(expected):
            raise ValueError("what was saved holds arrays of other shapes")
    read = ocp.JsonCheckpointHandler().restore(epath.Path(directory / "host"))
    if read != json.loads(json.dumps(host)):
        raise ValueError("what was saved holds other host data")


def _read(
    manager: ocp.CheckpointManager, step: int, shapes: Any, *, verified: bool
) -> tuple[Any, dict]:
    try:
        items = _items_as_saved(shapes, Path(manager.directory) / str(step))
        data = {name: ocp.args.StandardRestore(item) for name, item in items.items()}
        data["host"] = ocp.args.JsonRestore()
        restored = manager.restore(step, args=ocp.args.Composite(**data))
    except Exception as error:
        if verified:
            raise  # the files are intact, so the fault lies elsewhere
        raise DamagedCheckpoint(f"{type(error).__name__}: {error}") from error
    arrays, host = restored["arrays"], restored["host"]
    if LOOP not in items:
        return arrays, host
    loop = restored[LOOP]
    replay = with_empty_slots(loop["replay"], shapes[LOOP]["replay"])
    return {**arrays, LOOP: {**loop, "replay": replay}}, host


class Saver:
    """Saves a run by env steps, by minutes, and before the replay uses up its slack.

    The replay keeps the two newest checkpoints restorable, so that the second is available if the
    newest turns out to be damaged. A checkpoint is therefore due at least every half of the slack.

    Args:
        checkpoints, replay: those of the run.
        margin: records per stream that may be written from one call of `due` to the next, and
            from the draw of a batch to the checkpoint with its indices.
        minutes: minutes between two checkpoints; 0 for no limit.
        warn: called with a message for the user.
        members: the replay's members among those in `host`; None for all.
        refill: the records of checkpoints are lost; `restore` starts the replay without any.
    """

    def __init__(
        self,
        checkpoints: Checkpoints,
        replay: Replay,
        *,
        margin: int,
        minutes: float,
        warn: Callable[[str], None],
        members: range | None = None,
        refill: bool = False,
    ):
        self._checkpoints, self._replay, self._warn = checkpoints, replay, warn
        self._members, self._refill = members, refill
        self._margin, self._minutes = margin, minutes
        self._half = max(1, (replay.slack - 2 * margin) // 2)
        self._saved_at = time.monotonic()
        self._saved_records = replay.written
        # The progress of the run and the state of its replay at the newest complete checkpoint.
        self._newest: tuple[dict, list] | None = None

    @property
    def step(self) -> int | None:
        """The env step of the newest complete checkpoint."""
        return None if self._newest is None else self._newest[0]["env_step"]

    def due(self) -> bool:
        """Return whether to save now because of the clock or of the replay."""
        late = time.monotonic() - self._saved_at >= 60 * self._minutes > 0
        records = int((self._replay.written - self._saved_records).max())
        return late or records >= self._half or self._replay.remaining_slack <= self._margin

    def save(self, arrays: Any, host: Mapping) -> None:
        """Start saving, unless the newest checkpoint holds this very state.

        Args:
            arrays: a pytree of device arrays.
            host: JSON data as described at the top of this module.
        """
        self.collect(wait=True)
        if self._newest is None or _place(host) != self._newest[0]:
            self._checkpoints.save(host["env_step"], arrays, host, before=self._replay.flush)
        self._saved_at, self._saved_records = time.monotonic(), self._replay.written

    def collect(self, *, wait: bool = False) -> None:
        """Return to the replay the slack that a complete checkpoint has freed.

        Raises:
            OSError: as in `Checkpoints.save`.
        """
        wait = wait or self._replay.remaining_slack <= self._margin
        host = self._checkpoints.completed(wait=wait)
        if host is not None:
            second = self._newest
            self._newest = _place(host), self._replay_records(host)
            self._replay.pin((second or self._newest)[1])

    def restore(self, shapes: Any) -> tuple[Any, dict] | None:
        """Read the newest intact checkpoint, and bring the replay back to it.

        Args:
            shapes: as in `Checkpoints.restore`.

        Returns:
            Its arrays and host data; None if the run has not been saved yet.

        Raises:
            UsageError: there were checkpoints, but the run can resume from none of those left.
        """
        for step in self._checkpoints.steps():
            try:
                arrays, host = self._checkpoints.restore(step, shapes)
            except DamagedCheckpoint as error:
                where = self._checkpoints.set_aside(step)
                self._warn(f"the checkpoint of env step {step} is damaged: {error}; now in {where}")
                continue
            records = self._replay_records(host)
            if self._refill:
                self._replay.restart(records)
                return arrays, host
            try:
                self._replay.restore(records)
            except ValueError as error:
                raise UsageError(f"cannot resume from env step {step}: {error}") from error
            self._newest = _place(host), records
            self._saved_records = self._replay.written
            return arrays, host
        self._checkpoints.check_left()
        self._replay.clear()
        return None

    def close(self) -> None:
        """Wait for the save in progress."""
        self._checkpoints.close()

    def _replay_records(self, host: Mapping) -> list:
        members = host["members"]
        chosen = members if self._members is None else [members[n] for n in self._members]
        return [member["replay"] for member in chosen]


def _place(host: Mapping) -> dict:
    """Return the run's progress."""
    return {"env_step": host["env_step"], "update": host["update"], "due": list(host["due"])}
