"""Treat members as runs of their own: list them, extract some, join runs, add seeds.

Nothing in a run depends on which other members it has, and every component keeps its state as one
record per member. So a run of other members is the same records in other lists: host data is
selected and concatenated, arrays along their leading axis, and `replay/<member>/` is copied.
"""

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
from dreamer_jax.agent.guard import is_frozen
from dreamer_jax.agent.placement import one_device
from dreamer_jax.config import sweep
from dreamer_jax.errors import UsageError
from dreamer_jax.replay.copy import MemberReplay, check_alike, copy_members, open_member
from dreamer_jax.report.metrics_log import encode_row, read_metrics
from dreamer_jax.run.checkpoint import Checkpoints
from dreamer_jax.run.load import name_members, read_checkpoint
from dreamer_jax.run.setup import MakeEnv, build, describe_bytes
from dreamer_jax.run.trainer import train
from dreamer_jax.run.workdir import WorkDir


def list_members(workdir: str | Path, *, make_env: MakeEnv | None = None) -> list[dict]:
    """Describe every member of a run by its newest checkpoint and its metrics.

    Args:
        workdir: The run's work directory; a process may be training it.
        make_env: As given to `train`.

    Returns:
        Per member: `member`, `seed`, its values of what `config.members` lists, `env_step`,
        `update`, `frozen`, `skipped_updates`, and the last `train_return` and `eval_return`, None
        if there is none yet.

    Raises:
        FileNotFoundError: There is no run, or no checkpoint yet.
        UsageError: No checkpoint is intact.
    """
    source = _read_source(workdir, None, make_env)
    state, members = source.arrays["state"], sweep.members(source.config)
    frozen = np.asarray(is_frozen(state, source.config.max_nonfinite))
    skipped = np.asarray(state.skipped)
    last = [{"train_return": None, "eval_return": None} for _ in members]
    for row in read_metrics(source.work.metrics):
        last[row["member"]] |= {k: row[k] for k in ("train_return", "eval_return") if k in row}
    return [
        {"member": m, "seed": member.seed}
        | member.values
        | source.place
        | {"frozen": bool(frozen[m]), "skipped_updates": int(skipped[m])}
        | last[m]
        for m, member in enumerate(members)
    ]


def extract(
    workdir: str | Path,
    members: Sequence[int],
    target: str | Path,
    *,
    make_env: MakeEnv | None = None,
) -> None:
    """Copy members of a run to a new work directory, where they are a run by themselves.

    `train` resumes them there as it would in their original run, up to rounding.

    Args:
        workdir: The run's work directory, which is only read; a process may be training it.
        members: Their numbers; in the new run they are 0, 1, ... in this order.
        target: The new work directory, empty or missing.
        make_env: As given to `train`.

    Raises:
        FileNotFoundError: There is no run, or no checkpoint yet.
        UsageError: There are no such members, the target is in use, the disk has too little
            space, or the run is not finished and has no replay on disk. Nothing is written then.
    """
    target = _free_target(target, workdir)
    _assemble([_read_source(workdir, members, make_env)], target)


def join(
    first: str | Path, second: str | Path, target: str | Path, *, make_env: MakeEnv | None = None
) -> None:
    """Merge two runs that are at the same env step and whose configs differ only in their members.

    Args:
        first: A work directory, which is only read.
        second: Another one. Where keys differ that may (see `config.RUN_KEYS`), the new run
            takes the first's.
        target: The new work directory, empty or missing.
        make_env: As given to `train`.

    Raises:
        FileNotFoundError: There is no run, or no checkpoint yet.
        UsageError: The runs do not fit together, or as in `extract`. Nothing is written then.
    """
    target = _free_target(target, first, second)
    sources = [_read_source(workdir, None, make_env) for workdir in (first, second)]
    _check_fit(*sources)
    _assemble(sources, target)


def add_members(
    workdir: str | Path,
    seeds: Sequence[int],
    target: str | Path,
    *,
    make_env: MakeEnv | None = None,
) -> dict:
    """Train new seeds as a finished run's were, and join both in a new work directory.

    Each seed gets a member for every setting in the run (see `config.members`). They train in
    `<target>.fresh`, which is removed at the end; after an interruption the same call resumes
    there.

    Args:
        workdir: The finished run's work directory, which is only read.
        seeds: Seeds that the run does not have yet.
        target: The new work directory, empty or missing.
        make_env: As given to `train`.

    Returns:
        What `train` returned for the new members. If they are not `finished`, training was
        stopped, and nothing has been joined.

    Raises:
        FileNotFoundError: There is no run, or no checkpoint yet.
        UsageError: The run is not finished, has some of the seeds, or as in `extract`.
    """
    target = _free_target(target, workdir)
    fresh = target.with_name(f"{target.name}.fresh")
    result = train(_fresh_config(WorkDir(workdir), seeds, make_env), fresh, make_env)
    if result["finished"]:
        join(workdir, fresh, target, make_env=make_env)
        os.sync()  # the copy must be on disk before the original is removed
        shutil.rmtree(fresh)
    return result


@dataclass(frozen=True)
class _Source:
    """Selected members of a run as of its newest intact checkpoint."""

    work: WorkDir
    config: ConfigDict  # of the whole run
    numbers: list[int]  # [K], of the members in the run
    arrays: Any  # [K, ...]
    host: Mapping  # as in the checkpoint, its `members` [K]

    @property
    def summary(self) -> dict | None:
        """What `train` returned, if the run finished with this checkpoint."""
        summary = self.work.read_summary()
        at_end = summary is not None and summary["env_step"] == self.host["env_step"]
        return summary if at_end else None

    @property
    def place(self) -> dict:
        """How far the run was."""
        return {name: self.host[name] for name in ("env_step", "update")}


def _read_source(
    workdir: str | Path, numbers: Sequence[int] | None, make_env: MakeEnv | None
) -> _Source:
    """Read members from the newest intact checkpoint of a run.

    Args:
        workdir: The run's work directory.
        numbers: The members' numbers; None for all.
        make_env: As given to `train`.

    Raises:
        FileNotFoundError: There is no run, or no checkpoint yet.
        UsageError: There are no such members, or no checkpoint is intact.
    """
    work = WorkDir(workdir)
    config = work.read_config()
    known = range(len(sweep.members(config)))
    numbers = list(known) if numbers is None else list(numbers)
    if not numbers or not set(numbers) <= set(known) or len(set(numbers)) < len(numbers):
        raise UsageError(
            f"members are {numbers}; allowed: one or more of those in {work.path}, each once: "
            f"{name_members(config)}"
        )
    setup = build(config, make_env, one_device())
    arrays, host = read_checkpoint(work, setup.saved_shapes())
    arrays = jax.tree.map(lambda x: x[np.array(numbers)], arrays)
    host = {**host, "members": [host["members"][number] for number in numbers]}
    return _Source(work, config, numbers, arrays, host)


def _free_target(target: str | Path, *sources: str | Path) -> Path:
    """Return the absolute path of a directory for a new run.

    Raises:
        UsageError: It lies in a source, or is not empty.
    """
    path = Path(target).expanduser().resolve()
    for source in sources:
        if path.is_relative_to(WorkDir(source).path.resolve()):
            raise UsageError(f"the target is {target}; allowed: a directory outside of {source}")
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UsageError(
            f"the target is {target}; allowed: a directory that is empty or does not exist"
        )
    return path


def _fresh_config(work: WorkDir, seeds: Sequence[int], make_env: MakeEnv | None) -> ConfigDict:
    """Return the config to train `seeds` with, after all checks that need no training."""
    config = work.read_config()
    present = sweep.member_seeds(config)
    if set(present) & set(seeds):
        raise UsageError(
            f"seeds are {list(seeds)}; allowed: seeds that the run does not have yet; it has "
            f"{sorted(set(present))}"
        )
    fresh = sweep.with_seeds(config, seeds)
    # In W&B, in the same group as the other members.
    fresh.wandb.group = config.wandb.group or work.path.absolute().name
    summary = work.read_summary()
    if summary is None or summary["env_step"] < config.steps:
        raise UsageError(f"the run in {work.path} is not finished; train it first")
    fresh.steps = summary["env_step"]  # config.steps may have been lowered since
    config_lib.validate(fresh)
    source = _read_source(work.path, None, make_env)
    if source.summary is None:
        raise UsageError(
            f"the newest intact checkpoint in {work.checkpoints} is of env step "
            f"{source.host['env_step']}, not of the run's end at {summary['env_step']}"
        )
    _check_nothing_due(source)
    _open_replays([source])
    return fresh


def _check_fit(first: _Source, second: _Source) -> None:
    """Raise UsageError unless the runs can be merged."""
    both = f"{first.work.path} and {second.work.path}"
    configs = [first.config, second.config]
    members = sweep.joined([(config, range(len(sweep.members(config)))) for config in configs])
    count = len(sweep.members(first.config))
    shared = [str(member) for member in members[count:] if member in members[:count]]
    if shared:
        raise UsageError(
            f"{second.work.path} has the members {shared}, which {first.work.path} has too; "
            "allowed: runs without common members"
        )
    different = config_lib.differences(
        *(sweep.without_members(config, list(members[0].values)) for config in configs)
    )
    if different:
        raise UsageError(f"{both} have different configs:\n" + "\n".join(different))
    if first.place != second.place:
        raise UsageError(f"{both} are not at the same step: {first.place} and {second.place}")
    for source in (first, second):
        _check_nothing_due(source)
    if (first.summary is None) != (second.summary is None):
        raise UsageError(f"only one of {both} is finished; resume the other")


def _check_nothing_due(source: _Source) -> None:
    if source.host["due"]:
        raise UsageError(
            f"{source.work.path} was stopped in the middle of an env step, before "
            f"{source.host['due']}; resume it until its next checkpoint"
        )


def _assemble(sources: Sequence[_Source], target: Path) -> None:
    """Make one run of the sources' members, in order, in a directory from `_free_target`.

    Args:
        sources: One, or several that fit together, see `_check_fit`.
        target: The new work directory.

    Raises:
        UsageError: Metrics or replay do not match the checkpoint, or the disk has too little
            space; nothing is left at the target.
    """
    selections = [(source.config, source.numbers) for source in sources]
    config = sweep.with_members(sources[0].config, sweep.joined(selections))
    labels = sweep.member_labels(config)  # of two runs, each may lack some that the other has
    rows = join_rows([(_read_rows(source), source.numbers) for source in sources])
    metrics = b"".join(encode_row(row | labels[row["member"]]) for row in rows)
    host = join_host([source.host for source in sources], labels)
    host["log"] = {"offset": len(metrics), "pending": []}
    arrays = jax.tree.map(
        lambda *leaves: jnp.concatenate(leaves), *(source.arrays for source in sources)
    )
    replays = _open_replays(sources)
    size = len(metrics) + sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
    _check_space(target, size + sum(replay.nbytes for replay in replays))
    with _building(target) as work:
        work.videos.mkdir()
        work.config.write_text(config_lib.to_json(config))
        work.metrics.write_bytes(metrics)
        if replays:
            copy_members(replays, work.replay)
        _write_checkpoint(work, config, arrays, host)
        if all(source.summary is not None for source in sources):
            records = [member["summary"] for member in host["members"]]
            scores = None if None in records else records
            work.write_summary(sources[0].summary | {"members": scores})


@contextlib.contextmanager
def _building(target: Path) -> Iterator[WorkDir]:
    """Yield a new work directory that becomes `target` if the block succeeds."""
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir()
        yield WorkDir(temporary)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def join_host(hosts: Sequence[Mapping], labels: Sequence[Mapping]) -> dict:
    """Join host data of checkpoints at the same step; its `log` is that of the first.

    Args:
        hosts: Host data whose `members` are the selected ones.
        labels: Each member's labels in the new run.
    """
    records = [record for host in hosts for record in host["members"]]
    members = []
    for number, (record, label) in enumerate(zip(records, labels, strict=True)):
        scores = record["summary"]  # None in an unfinished run, empty in one without evaluation
        members.append(record | {"summary": scores and scores | {"member": number} | label})
    return {**hosts[0], "members": members}


def _read_rows(source: _Source) -> list[dict]:
    """Read the metrics rows up to the checkpoint, including those that could not be written."""
    position, path = source.host["log"], source.work.metrics
    with open(path, "rb") as file:
        content = file.read(position["offset"])
    if len(content) < position["offset"] or content[-1:] not in (b"", b"\n"):
        raise UsageError(
            f"{path} was changed since the checkpoint was written: its byte {position['offset']} "
            "is not the end of a line"
        )
    return [json.loads(line) for line in (*content.splitlines(), *position["pending"])]


def join_rows(sources: Sequence[tuple[Sequence[dict], Sequence[int]]]) -> list[dict[str, Any]]:
    """Join rows of metrics.jsonl as one run of all members would write them.

    Args:
        sources: A run's rows, and the numbers of the members selected from it.

    Returns:
        By env step, at each the log rows of all members, then their evaluations.
    """
    selected = [(source, m) for source, (_, numbers) in enumerate(sources) for m in numbers]
    number = {pair: new for new, pair in enumerate(selected)}
    rows = [
        row | {"member": number[source, row["member"]]}
        for source, (rows, _) in enumerate(sources)
        for row in rows
        if (source, row["member"]) in number
    ]
    return sorted(rows, key=lambda r: (r["env_step"], "eval_return" in r, r["member"]))


def _open_replays(sources: Sequence[_Source]) -> list[MemberReplay]:
    """Open the replay of every selected member.

    Returns:
        One per member; none if no run has its replay any more, and all are finished.

    Raises:
        UsageError: The replays differ in layout, or a run that is not finished has none.
    """
    available = [
        source.config.replay.storage == "disk" and source.work.replay.is_dir() for source in sources
    ]
    if not any(available) and all(source.summary is not None for source in sources):
        return []
    for source in sources:
        if source.config.replay.storage == "memory":
            raise UsageError(
                f"the run in {source.work.path} is not finished, and its replay is in memory "
                "(config.replay.storage): a copy could not be resumed"
            )
    replays = [
        open_member(source.work.replay / str(number), member["replay"], member["prefetch"])
        for source in sources
        for number, member in zip(source.numbers, source.host["members"], strict=True)
    ]
    check_alike(replays)
    return replays


def _check_space(target: Path, needed: int) -> None:
    parent = next(path for path in target.parents if path.exists())
    free = shutil.disk_usage(parent).free
    if free < needed:
        raise UsageError(
            f"the copy takes {describe_bytes(needed)}, but {parent} has "
            f"{describe_bytes(free)} free; make room, or give a target on another disk"
        )


def _write_checkpoint(work: WorkDir, config: ConfigDict, arrays: Any, host: dict) -> None:
    checkpoints = Checkpoints(work.checkpoints, config.checkpoint_keep)
    try:
        checkpoints.save(host["env_step"], arrays, host, before=lambda: None)
        checkpoints.completed(wait=True)
    finally:
        checkpoints.close()
