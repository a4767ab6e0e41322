"""Reads members out of work directories and makes a new work directory of them."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dreamer_jax import config as config_lib
from dreamer_jax.agent.placement import one_device
from dreamer_jax.config import sweep
from dreamer_jax.errors import UsageError
from dreamer_jax.replay.copy import MemberReplay, check_alike, copy_members, open_member
from dreamer_jax.report.metrics_log import encode_row
from dreamer_jax.run import member_data
from dreamer_jax.run.checkpoint import Checkpoints
from dreamer_jax.run.load import read_checkpoint
from dreamer_jax.run.setup import MakeEnv, build, describe_bytes
from dreamer_jax.run.workdir import WorkDir


@dataclass(frozen=True)
class Source:
    """Some members of a run, with the whole run's newest checkpoint that is whole."""

    work: WorkDir
    config: ConfigDict
    members: list[int]
    arrays: Any  # as the trainer saves them, [M, ...]
    host: Mapping

    @property
    def summary(self) -> dict | None:
        """What the run returned, if it came to its end with this checkpoint."""
        summary = self.work.read_summary()
        at_end = summary is not None and summary["env_step"] == self.host["env_step"]
        return summary if at_end else None

    @property
    def place(self) -> dict:
        """How far it is."""
        return {name: self.host[name] for name in ("env_step", "update")}


def read_source(
    workdir: str | Path, members: Sequence[int] | None, make_env: MakeEnv | None
) -> Source:
    """Read the newest checkpoint of a run.

    Args:
        members: the numbers of those wanted, None for all; make_env: as given to `train`.

    Raises:
        FileNotFoundError: there is no run, or no checkpoint yet.
        UsageError: there are no such members, or no checkpoint is whole.
    """
    work = WorkDir(workdir)
    config = work.read_config()
    there = sweep.members(config)
    members = list(range(len(there))) if members is None else list(members)
    known = set(members) <= set(range(len(there)))
    if not members or not known or len(set(members)) < len(members):
        choices = ", ".join(f"{number} ({member})" for number, member in enumerate(there))
        raise UsageError(
            f"members are {members}; allowed: one or more of those in {work.path}, each once: "
            f"{choices}"
        )
    return Source(
        work, config, members, *read_checkpoint(work, build(config, make_env, one_device()))
    )


def free_target(target: str | Path, *sources: str | Path) -> Path:
    """The target's absolute path. Raises UsageError unless a run can be made there."""
    path = Path(target).expanduser().resolve()
    for source in sources:
        taken = WorkDir(source).path.resolve()
        if path == taken or taken in path.parents:
            raise UsageError(f"the target is {target}; allowed: a directory outside of {source}")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(f"the target is {target}; allowed: a directory that is empty or not there")
    return path


def open_replays(sources: Sequence[Source]) -> list[MemberReplay] | None:
    """The replays of the sources; None if they are gone and not needed, the runs having ended."""
    on_disk = [
        source.config.replay.storage == "disk" and source.work.replay.is_dir() for source in sources
    ]
    if not any(on_disk) and all(source.summary is not None for source in sources):
        return None
    for source in sources:
        if source.config.replay.storage == "memory":
            raise UsageError(
                f"the run in {source.work.path} has not come to its end, and its replay is in "
                "memory (config.replay.storage); a copy could not go on"
            )
    replays = [
        open_member(s.work.replay / str(m), s.host["replay"][m], s.host["prefetch"][m])
        for s in sources
        for m in s.members
    ]
    check_alike(replays)
    return replays


def assemble(sources: Sequence[Source], target: Path) -> None:
    """Make one run of the sources' members, in order, in a directory from `free_target`.

    The sources must fit together, see `member_data.gather_host`.

    Raises:
        UsageError: metrics or replay do not go with the checkpoint, or the disk has too little
            space; nothing is left at the target.
    """
    config = member_data.gather_config([(s.config, s.members) for s in sources])
    host = member_data.gather_host([(s.host, s.members) for s in sources], config.env.num_envs)
    rows = member_data.gather_rows([(_read_rows(s), s.members) for s in sources])
    labels = sweep.member_labels(config)
    # Of two runs, each may have had labels that the other lacked.
    if host["summary"] is not None:
        host["summary"] = [r and r | labels[r["member"]] for r in host["summary"]]
    metrics = b"".join(encode_row(row | labels[row["member"]]) for row in rows)
    host["records"]["offset"] = len(metrics)
    arrays = _gather_arrays(sources)
    replays = open_replays(sources)
    size = len(metrics) + sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
    _check_space(target, size + sum(replay.nbytes for replay in replays or []))
    with _building(target) as work:
        work.videos.mkdir()
        work.config.write_text(config_lib.to_json(config))
        work.metrics.write_bytes(metrics)
        if replays is not None:
            copy_members(replays, work.replay)
        _save(work, config, arrays, host)
        if all(source.summary is not None for source in sources):
            work.write_summary(sources[0].summary | {"members": host["summary"]})


@contextlib.contextmanager
def _building(target: Path) -> Iterator[WorkDir]:
    """A new work directory that becomes `target` if the block succeeds, and nothing if not."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
        yield WorkDir(temporary)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _gather_arrays(sources: Sequence[Source]) -> Any:
    members = [np.array(source.members) for source in sources]
    return jax.tree.map(
        lambda *leaves: jnp.concatenate([x[m] for x, m in zip(leaves, members, strict=True)]),
        *(source.arrays for source in sources),
    )


def _read_rows(source: Source) -> list[dict]:
    """The metrics rows up to the checkpoint, those that could not be written then included."""
    records, path = source.host["records"], source.work.metrics
    with open(path, "rb") as file:
        content = file.read(records["offset"])
    if len(content) < records["offset"] or content[-1:] not in (b"", b"\n"):
        raise UsageError(
            f"{path} was changed since the checkpoint was written: its byte {records['offset']} "
            "is not the end of a line"
        )
    return [json.loads(line) for line in (*content.splitlines(), *records["pending"])]


def _check_space(target: Path, needed: int) -> None:
    parent = next(path for path in target.parents if path.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise UsageError(
            f"the copy takes {describe_bytes(needed)}, but {parent} has "
            f"{describe_bytes(free)} free; make room, or give a target on another disk"
        )


def _save(work: WorkDir, config: ConfigDict, arrays: Any, host: dict) -> None:
    checkpoints = Checkpoints(work.checkpoints, config.checkpoint_keep)
    try:
        checkpoints.save(host["env_step"], arrays, host, before=lambda: None)
        checkpoints.completed(wait=True)
    finally:
        checkpoints.close()
