"""What a run leaves for people: metrics.jsonl, the terminal, curves and videos, W&B, faults.log."""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dreamer_jax.agent.guard import COUNTED
from dreamer_jax.config import sweep
from dreamer_jax.report.curves import draw_curves
from dreamer_jax.report.metrics_log import MetricsLog, read_metrics
from dreamer_jax.report.progress import Progress
from dreamer_jax.run.workdir import WorkDir
from dreamer_jax.types import Metrics

_add = jax.jit(lambda total, metrics: jax.tree.map(jnp.add, total, metrics), donate_argnums=0)


class Reporter:
    """Writes what is worth knowing of every member; no failure to write stops the run."""

    def __init__(self, config: ConfigDict, work: WorkDir, progress: Progress):
        self._config, self._work, self._progress = config, work, progress
        self._members = sweep.members(config)
        self._labels = sweep.member_labels(config)
        self._log = MetricsLog(work.metrics, warn=progress.print)
        self._wandb: Any = None  # begins with `restore`: it reads metrics.jsonl
        self._sums: Metrics | None = None  # since the last log line, [M] each
        self._frozen = np.zeros(len(self._members), bool)
        self._faults = np.zeros(len(self._members), int)  # environments replaced, per member
        self._clock = (time.monotonic(), 0, 0)  # at the last log line: seconds, env step, update

    def add(self, metrics: Metrics) -> None:
        """Count one update's metrics, [M] each, on the device."""
        self._sums = metrics if self._sums is None else _add(self._sums, metrics)

    def write(
        self,
        env_step: int,
        update: int,
        episodes: Sequence[Mapping],
        skipped: np.ndarray,
        frozen: np.ndarray,
    ) -> None:
        """Write a log line per member: means of what was added since the last one.

        Args:
            episodes: a record per member; skipped, frozen: [M], updates skipped so far, and
                whether the member has been given up.
        """
        now = (time.monotonic(), env_step, update)
        seconds, steps, updates = (b - a for a, b in zip(self._clock, now, strict=True))
        self._clock = now
        rates = {
            "frames_per_s": steps * self._config.env.action_repeat / seconds,
            "updates_per_s": updates / seconds,
        }
        means = self._pop_means()
        state = [
            {"skipped_updates": int(skipped[m]), "frozen": bool(frozen[m])}
            | ({"env_faults": int(self._faults[m])} if self._faults[m] else {})
            for m in range(len(self._members))
        ]
        records = zip(episodes, means, state, strict=True)
        self._write_rows(env_step, update, [{**e, **m, **s, **rates} for e, m, s in records])
        self._show(env_step, update, [record.get("train_return") for record in episodes])
        for member in np.flatnonzero(frozen & ~self._frozen):
            self._progress.print(
                f"member {member} ({self._members[member]}) is frozen: its losses or gradients "
                f"were not finite {self._config.max_nonfinite} times in a row; the others go on"
            )
        self._frozen = np.array(frozen)

    def write_evaluation(self, env_step: int, update: int, records: Sequence[Mapping]) -> None:
        """Write a line per member with what it scored."""
        self._write_rows(env_step, update, records)
        returns = [record["eval_return"] for record in records]
        self._show(env_step, update, eval_returns=returns)

    def draw(self, env_step: int, write_videos: Callable[[], Sequence[tuple]]) -> None:
        """Draw curves and videos. Args: write_videos: returns (member, name, path) of each."""
        try:
            draw_curves(
                read_metrics(self._work.metrics), self._work.curves, title=self._config.task
            )
            videos = write_videos()
        except OSError as error:
            self._progress.print(f"no picture at env step {env_step}: {error}; training goes on")
            return
        if self._wandb is not None:
            for member, name, path in videos:
                self._wandb.video(member, name, path, env_step)

    def fault(self, env_step: int, member: int, name: str, text: str) -> None:
        """Tell of a member's environment that failed and is replaced."""
        self._faults[member] += 1
        where = f"{name} of member {member} failed at env step {env_step}"
        reason = text.strip().splitlines()[-1]
        self._progress.print(f"{where} and is replaced: {reason} (more in {self._work.faults})")
        try:
            with open(self._work.faults, "a") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {where}\n{text.strip()}\n\n")
        except OSError as error:
            self._progress.print(f"{self._work.faults} cannot be written: {error}\n{text}")

    def state(self) -> list[dict]:
        """Return what `restore` needs, a JSON record per member.

        Returns:
            [M] records: `sums` of the metrics since the last log line, None without an update since
            then; `frozen`; and `faults`, the number of environments replaced.
        """
        sums = jax.device_get(self._sums)
        return [
            {
                "sums": sums and {name: float(total[m]) for name, total in sums.items()},
                "frozen": bool(self._frozen[m]),
                "faults": int(self._faults[m]),
            }
            for m in range(len(self._members))
        ]

    def log_position(self) -> dict:
        """Return the place in metrics.jsonl: its `offset` in bytes and the `pending` lines.

        What lies before the offset is on disk afterwards, unless the disk fails.
        """
        self._log.flush()
        return {"offset": self._log.offset, "pending": self._log.pending}

    def restore(
        self,
        records: Sequence[Mapping] | None,
        position: Mapping | None,
        env_step: int,
        update: int,
    ) -> None:
        """Return to a checkpoint, or to the beginning of the run.

        Args:
            records: a `state()`, or None at the beginning. A member whose sums are None while
                others have some counts as zeros.
            position: a `log_position()`, or None at the beginning.
            env_step: the step of the checkpoint.
            update: its number of updates.
        """
        self._clock = (time.monotonic(), env_step, update)
        self._log.cut(**position or {"offset": 0})
        if records is not None:
            self._frozen = np.array([record["frozen"] for record in records])
            self._faults = np.array([record["faults"] for record in records])
            self._sums = _stack_sums([record["sums"] for record in records])
        self._wandb = _make_wandb(self._config, self._work, self._progress.print)

    def close(self) -> None:
        """Write what waits."""
        try:
            self._log.close()
        except OSError as error:
            # A run that goes on from its last checkpoint writes them again.
            self._progress.print(f"{self._work.metrics} is not complete: {error.strerror}")
        if self._wandb is not None:
            self._wandb.sync(self._log.offset)
            self._wandb.close()

    def _pop_means(self) -> list[dict[str, float]]:
        """Per member the means since the last call; empty where no update was taken."""
        sums, self._sums = jax.device_get(self._sums), None
        if sums is None:
            return [{} for _ in self._members]
        counts = sums.pop(COUNTED)
        return [
            {name: float(total[m] / counts[m]) for name, total in sums.items()} if counts[m] else {}
            for m in range(len(self._members))
        ]

    def _write_rows(self, env_step: int, update: int, records: Sequence[Mapping]) -> None:
        frame = env_step * self._config.env.action_repeat
        head = {"env_step": env_step, "frame": frame, "update": update}
        self._log.write(
            {"member": m, "seed": self._members[m].seed} | head | self._labels[m] | dict(record)
            for m, record in enumerate(records)
        )
        if self._wandb is not None:
            self._wandb.sync(self._log.offset)

    def _show(self, env_step, update, returns=None, eval_returns=None) -> None:
        nothing = [None] * len(self._members)
        self._progress.update(
            env_step,
            env_step * self._config.env.action_repeat,
            update,
            returns or nothing,
            eval_returns=eval_returns or nothing,
        )


def _stack_sums(sums: Sequence[Mapping[str, float] | None]) -> Metrics | None:
    """Return sums of members as arrays [M]; None if no member has any."""
    names = next((list(entry) for entry in sums if entry is not None), None)
    if names is None:
        return None
    rows = [entry or dict.fromkeys(names, 0.0) for entry in sums]
    return {name: jnp.asarray([row[name] for row in rows], jnp.float32) for name in names}


def _tags(config: ConfigDict) -> tuple[str, ...]:
    """What tells runs of one project apart, then the user's own."""
    return (
        config.task,
        config.behavior,
        config.objective,
        *filter(None, config.wandb.tags.split(",")),
    )


def _make_wandb(config: ConfigDict, work: WorkDir, warn: Callable[[str], None]) -> Any:
    if config.wandb.mode == "disabled":
        return None
    from dreamer_jax.report.wandb_runs import WandbRuns

    return WandbRuns(
        work.metrics,
        mode=config.wandb.mode,
        project=config.wandb.project,
        entity=config.wandb.entity,
        group=config.wandb.group or work.path.absolute().name,
        tags=_tags(config),
        member_configs=sweep.member_configs(config),
        state_file=work.wandb,
        directory=work.path,
        warn=warn,
    )
