"""Treat members as runs of their own: list them, extract some, join runs, add seeds.

Nothing in a run depends on which other members it has, and every component keeps its state as one
record per member. So a run of other members is the same records in other lists: host data is
selected and concatenated, arrays along their leading axis, and `replay/<member>/` is copied.

The functions only read the given runs, from their newest intact checkpoints, so a process may be
training them. `target` is the work directory of the new run, empty or missing, and `make_env` is as
given to `train`. Before anything is written they raise FileNotFoundError if there is no run or no
checkpoint yet, and UsageError if members, runs, target or disk space do not fit.
"""

import contextlib
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dreamer_jax import config as config_lib
from dreamer_jax.agent.guard import is_frozen
from dreamer_jax.config import sweep
from dreamer_jax.errors import UsageError
from dreamer_jax.replay.copy import MemberReplay, check_alike, copy_members, open_member
from dreamer_jax.report.metrics_log import encode_row, iter_rows
from dreamer_jax.report.wandb.process import run_group
from dreamer_jax.run.checkpoint import Checkpoints
from dreamer_jax.run.identity import check_spaces, write_identity
from dreamer_jax.run.load import Saved, read_saved
from dreamer_jax.run.setup import MakeEnv, describe_bytes
from dreamer_jax.run.trainer import train
from dreamer_jax.run.workdir import WorkDir

log = logging.getLogger(__name__)


def list_members(workdir: str | Path, *, make_env: MakeEnv | None = None) -> list[dict]:
    """Describe every member of a run by its checkpoint and its metrics.

    Returns:
        Per member: `member`, `seed`, its hyperparameters in `config.members`, `env_step`,
        `update`, `frozen`, `skipped_updates`, and the last `train_return` and `eval_return`, None
        if there is none yet.
    """
    source = read_saved(workdir, None, make_env)
    state = source.arrays["state"]
    frozen = np.asarray(is_frozen(state, source.config.max_nonfinite)).tolist()
    skipped = np.asarray(state.skipped).tolist()
    records = [
        {"member": m, "seed": member.seed, **member.values, **source.place}
        | {"frozen": frozen[m], "skipped_updates": skipped[m]}
        | {"train_return": None, "eval_return": None}
        for m, member in enumerate(sweep.members(source.config))
    ]
    for row in iter_rows(source.work.metrics, on_bad=log.warning):
        if row.get("member") in range(len(records)):
            returns = {key: row[key] for key in ("train_return", "eval_return") if key in row}
            records[row["member"]] |= returns
    return records


def extract(
    workdir: str | Path,
    members: Sequence[int],
    target: str | Path,
    *,
    make_env: MakeEnv | None = None,
) -> None:
    """Copy the members with the given numbers to a new run, in which they are 0, 1, ... in order.

    `train` resumes them there as it would in their original run, up to rounding. A run that is not
    finished must have its replay on disk.
    """
    target = _free_target(target, workdir)
    _assemble([read_saved(workdir, members, make_env, with_loop=True)], target)


def join(
    first: str | Path, second: str | Path, target: str | Path, *, make_env: MakeEnv | None = None
) -> None:
    """Merge two runs that are at the same env step and whose configs differ only in their members.

    Keys in `config.RUN_KEYS` may differ too; the new run takes the values of the first.
    """
    target = _free_target(target, first, second)
    sources = [read_saved(workdir, None, make_env, with_loop=True) for workdir in (first, second)]
    _check_fit(*sources)
    _assemble(sources, target)


def add_members(
    workdir: str | Path,
    seeds: Sequence[int],
    target: str | Path,
    *,
    make_env: MakeEnv | None = None,
) -> dict:
    """Train new seeds as those of a finished run were trained, and join both in a new run.

    Each seed gets a member for every setting in the run (see `config.members`). They train in
    `<target>.fresh`, which is removed at the end; after an interruption the same call resumes
    there.

    Returns:
        The result of `train` for the new members. If they are not `finished`, training was
        stopped, and nothing has been joined.
    """
    target = _free_target(target, workdir)
    fresh = target.with_name(f"{target.name}.fresh")
    result = train(_fresh_config(WorkDir(workdir), seeds, make_env), fresh, make_env)
    if result["finished"]:
        join(workdir, fresh, target, make_env=make_env)
        os.sync()  # the copy must be on disk before the original is removed
        shutil.rmtree(fresh)
    return result


def _summary(source: Saved) -> dict | None:
    """Return the result of `train`, if the run finished with this checkpoint."""
    summary = source.work.read_summary()
    return summary if summary is not None and summary["env_step"] == source.env_step else None


def _free_target(target: str | Path, *sources: str | Path) -> Path:
    """Return the absolute path of an empty or missing directory outside of the sources."""
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
    present = set(sweep.member_seeds(config))
    if present & set(seeds):
        raise UsageError(
            f"seeds are {list(seeds)}; allowed: seeds that the run does not have yet; it has "
            f"{sorted(present)}"
        )
    fresh = sweep.with_seeds(config, seeds)
    # In W&B, in the same group as the other members.
    fresh.wandb.group = run_group(work.path, config.wandb.group)
    summary = work.read_summary()
    if summary is None or summary["env_step"] < config.steps:
        raise UsageError(f"the run in {work.path} is not finished; train it first")
    fresh.steps = summary["env_step"]  # config.steps may have been lowered since
    config_lib.validate(fresh)
    source = read_saved(work.path, None, make_env)
    if _summary(source) is None:
        raise UsageError(
            f"the newest intact checkpoint in {work.checkpoints} is of env step "
            f"{source.env_step}, not of the run's end at {summary['env_step']}"
        )
    _check_nothing_due(source)
    _open_replays([source])
    return fresh


def _check_fit(first: Saved, second: Saved) -> None:
    """Raise UsageError unless the runs can be merged."""
    both = f"{first.work.path} and {second.work.path}"
    members = sweep.joined([(source.config, source.numbers) for source in (first, second)])
    count = len(first.numbers)
    shared = [str(member) for member in members[count:] if member in members[:count]]
    if shared:
        raise UsageError(
            f"{second.work.path} has the members {shared}, which {first.work.path} has too; "
            "allowed: runs without common members"
        )
    lists = list(members[0].values)
    different = config_lib.differences(
        sweep.without_members(first.config, lists), sweep.without_members(second.config, lists)
    )
    if different:
        raise UsageError(f"{both} have different configs:\n" + "\n".join(different))
    check_spaces(first.work.environment, second.setup.identity)
    if first.place != second.place:
        raise UsageError(f"{both} are not at the same step: {first.place} and {second.place}")
    _check_nothing_due(first)
    _check_nothing_due(second)
    if (_summary(first) is None) != (_summary(second) is None):
        raise UsageError(f"only one of {both} is finished; resume the other")


def _check_nothing_due(source: Saved) -> None:
    if source.host["due"]:
        raise UsageError(
            f"{source.work.path} was stopped in the middle of an env step, before "
            f"{source.host['due']}; resume it until its next checkpoint"
        )


def _assemble(sources: Sequence[Saved], target: Path) -> None:
    """Make one run of the members of sources that fit together; on errors, leave no target."""
    selections = [(source.config, source.numbers) for source in sources]
    config = sweep.with_members(sources[0].config, sweep.joined(selections))
    labels = sweep.member_labels(config)  # of two runs, each may lack some that the other has
    rows = join_rows([(_read_rows(source), source.numbers) for source in sources])
    metrics = b"".join(encode_row(row | labels[row["member"]]) for row in rows)
    host = join_host([source.host for source in sources], labels)
    host["log"] = {"offset": len(metrics), "pending": []}
    arrays = jax.tree.map(lambda *xs: jnp.concatenate(xs), *(source.arrays for source in sources))
    replays = _open_replays(sources)
    size = len(metrics) + sum(leaf.nbytes for leaf in jax.tree.leaves(arrays))
    _check_space(target, size + sum(replay.nbytes for replay in replays))
    work = WorkDir(target.with_name(f".{target.name}.{os.getpid()}.tmp"))
    try:
        work.videos.mkdir(parents=True)
        work.config.write_text(config_lib.to_json(config))
        write_identity(work.environment, sources[0].setup.identity)
        work.metrics.write_bytes(metrics)
        if replays:
            copy_members(replays, work.replay)
        checkpoints = Checkpoints(work.checkpoints, config.checkpoint_keep)
        with contextlib.closing(checkpoints):
            checkpoints.save(sources[0].env_step, arrays, host, before=lambda: None)
            checkpoints.completed(wait=True)
        if all(_summary(source) is not None for source in sources):
            records = [member["summary"] for member in host["members"]]
            scores = None if None in records else records
            work.write_summary(_summary(sources[0]) | {"members": scores})
        os.replace(work.path, target)
    finally:
        shutil.rmtree(work.path, ignore_errors=True)


def join_host(hosts: Sequence[Mapping], labels: Sequence[Mapping]) -> dict:
    """Join host data of checkpoints at the same step, with the members' labels in the new run."""
    records = [record for host in hosts for record in host["members"]]
    members = []
    for number, (record, label) in enumerate(zip(records, labels, strict=True)):
        scores = record["summary"]  # None in an unfinished run, empty in one without evaluation
        members.append(record | {"summary": scores and scores | {"member": number} | label})
    return {**hosts[0], "members": members}


def _read_rows(source: Saved) -> list[dict]:
    """Read the metrics rows up to the checkpoint, including those that could not be written."""
    position, path = source.host["log"], source.work.metrics
    with open(path, "rb") as file:
        content = file.read(position["offset"])
    if len(content) < position["offset"] or content[-1:] not in (b"", b"\n"):
        raise UsageError(
            f"{path} was changed since the checkpoint was written: its byte {position['offset']} "
            "is not the end of a line"
        )
    rows = []
    for number, line in enumerate((*content.splitlines(), *position["pending"]), start=1):
        with contextlib.suppress(ValueError):
            row = json.loads(line)
            if isinstance(row, dict) and {"member", "env_step"} <= set(row):
                rows.append(row)
                continue
        raise UsageError(f"{path} is damaged: line {number} is no row of a member")
    return rows


def join_rows(sources: Sequence[tuple[Sequence[dict], Sequence[int]]]) -> list[dict[str, Any]]:
    """Join rows of metrics.jsonl as one run of all members would write them.

    Args:
        sources: each run's rows, and the numbers of the members selected from it.

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


def _open_replays(sources: Sequence[Saved]) -> list[MemberReplay]:
    """Open every selected member's replay on disk.

    Returns:
        None of them, if the replays are among the arrays, or if all runs are finished and none has
        a replay.
    """
    if all(source.setup.device_loop is not None for source in sources):
        return []
    memory = [source.config.replay.storage == "memory" for source in sources]
    lost = all(m or not s.work.replay.is_dir() for m, s in zip(memory, sources, strict=True))
    if lost and all(_summary(source) is not None for source in sources):
        return []
    if any(memory):
        raise UsageError(
            f"the run in {sources[memory.index(True)].work.path} is not finished, and its replay "
            "is in memory (config.replay.storage): a copy could not be resumed"
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
