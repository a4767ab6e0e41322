"""The members of a run as runs of their own: list them, take some out, put others beside them.

Nothing in a run depends on which other members it has, so a checkpoint of some members, with their
replay and metrics, is a checkpoint of the run that has only these.
"""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ml_collections import ConfigDict

from dreamer_jax import config as config_lib
from dreamer_jax.agent.guard import is_frozen
from dreamer_jax.config import sweep
from dreamer_jax.errors import UsageError
from dreamer_jax.report.metrics_log import read_metrics
from dreamer_jax.run.assemble import Source, assemble, free_target, open_replays, read_source
from dreamer_jax.run.setup import MakeEnv
from dreamer_jax.run.trainer import train
from dreamer_jax.run.workdir import WorkDir


def list_members(workdir: str | Path, *, make_env: MakeEnv | None = None) -> list[dict]:
    """What a run's newest checkpoint and its metrics say of every member.

    Args:
        workdir: of the run; a process may be training it. make_env: as given to `train`.

    Returns:
        Per member: `member`, `seed`, its values of what `config.members` lists, `env_step`,
        `update`, `frozen`, `skipped_updates`, and the last `train_return` and `eval_return`, None
        where there is none yet.

    Raises:
        FileNotFoundError: there is no run, or no checkpoint yet.
        UsageError: no checkpoint is whole.
    """
    source = read_source(workdir, None, make_env)
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

    `train` goes on there as the members do in the run that they come from, up to rounding.

    Args:
        workdir: of the run, which is only read; a process may be training it.
        members: their numbers; they are 0, 1, ... in the new run, in this order.
        target: empty, or not there yet. make_env: as given to `train`.

    Raises:
        FileNotFoundError: there is no run, or no checkpoint yet.
        UsageError: there are no such members, the target is in use, the disk has too little
            space, or the run is not finished and has no replay on disk. Nothing is written then.
    """
    target = free_target(target, workdir)
    assemble([read_source(workdir, members, make_env)], target)


def join(
    first: str | Path, second: str | Path, target: str | Path, *, make_env: MakeEnv | None = None
) -> None:
    """Make one run of two whose configs differ in their members alone, and which are equally far.

    Args:
        first, second: their work directories, which are only read. Where keys differ that may
            (see `config.RUN_KEYS`), the new run has the first's.
        target: empty, or not there yet. make_env: as given to `train`.

    Raises:
        FileNotFoundError: there is no run, or no checkpoint yet.
        UsageError: the runs do not fit together, or as in `extract`. Nothing is written then.
    """
    target = free_target(target, first, second)
    sources = [read_source(workdir, None, make_env) for workdir in (first, second)]
    _check_fit(*sources)
    assemble(sources, target)


def add_members(
    workdir: str | Path,
    seeds: Sequence[int],
    target: str | Path,
    *,
    make_env: MakeEnv | None = None,
) -> dict:
    """Train fresh seeds as a finished run's were, and join both in a new work directory.

    Each seed gets a member for every setting that the run has (see `config.members`). They train
    in `<target>.fresh`, which is removed at the end; after an interruption the same call goes on
    from there.

    Args:
        workdir: of the finished run, which is only read; seeds: not yet in it.
        target: empty, or not there yet. make_env: as given to `train`.

    Returns:
        What `train` returned of the fresh members; if that says that they are not `finished`, it
        was told to stop, and nothing has been joined.

    Raises:
        FileNotFoundError: there is no run, or no checkpoint yet.
        UsageError: the run is not finished, has some of the seeds, or as in `extract`.
    """
    target = free_target(target, workdir)
    fresh = target.with_name(f"{target.name}.fresh")
    result = train(_fresh_config(WorkDir(workdir), seeds, make_env), fresh, make_env)
    if result["finished"]:
        join(workdir, fresh, target, make_env=make_env)
        os.sync()  # what is copied must be on disk before the original goes
        shutil.rmtree(fresh)
    return result


def _fresh_config(work: WorkDir, seeds: Sequence[int], make_env: MakeEnv | None) -> ConfigDict:
    """The config to train `seeds` with, after all checks that need no training."""
    config = work.read_config()
    present = sweep.member_seeds(config)
    if set(present) & set(seeds):
        raise UsageError(
            f"seeds are {list(seeds)}; allowed: others than those that are there, "
            f"{sorted(set(present))}"
        )
    fresh = sweep.with_seeds(config, seeds)
    # Beside the others in W&B, and no further, even if the run was told to go on and did not.
    fresh.wandb.group = config.wandb.group or work.path.absolute().name
    summary = work.read_summary()
    if summary is None or summary["env_step"] < config.steps:
        raise UsageError(f"the run in {work.path} has not come to its end; train it first")
    fresh.steps = summary["env_step"]
    config_lib.validate(fresh)
    source = read_source(work.path, None, make_env)
    if source.summary is None:
        raise UsageError(
            f"the newest checkpoint in {work.checkpoints} that is whole is of env step "
            f"{source.host['env_step']}, not of the run's end at {summary['env_step']}"
        )
    open_replays([source])
    return fresh


def _check_fit(first: Source, second: Source) -> None:
    """Raise UsageError unless the runs can be one."""
    where = f"{first.work.path} and {second.work.path}"
    configs = [first.config, second.config]
    members = sweep.joined([(config, range(len(sweep.members(config)))) for config in configs])
    count = len(sweep.members(first.config))
    shared = [str(member) for member in members[count:] if member in members[:count]]
    if shared:
        raise UsageError(
            f"{second.work.path} has the members {shared}; allowed: others than those that are in "
            f"{first.work.path}"
        )
    different = config_lib.differences(
        *(sweep.without_members(config, list(members[0].values)) for config in configs)
    )
    if different:
        raise UsageError(f"{where} have different configs:\n" + "\n".join(different))
    if first.place != second.place:
        raise UsageError(f"{where} are not equally far: {first.place} and {second.place}")
    for source in (first, second):
        if source.host["due"]:
            raise UsageError(
                f"{source.work.path} was stopped in the middle of an env step, with "
                f"{source.host['due']} to be made; let it go on to another checkpoint"
            )
    if (None in first.host["prefetch"]) != (None in second.host["prefetch"]):
        raise UsageError(f"only one of {where} has begun to draw batches; let them go on")
    if (first.summary is None) != (second.summary is None):
        raise UsageError(f"only one of {where} has come to its end; let the other go on")
