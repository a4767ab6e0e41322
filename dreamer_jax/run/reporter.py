"""Report a run to people: metrics.jsonl, the terminal, curves, W&B, faults.log."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dreamer_jax.agent.guard import COUNTED
from dreamer_jax.config import sweep
from dreamer_jax.report.curves import draw_curves
from dreamer_jax.report.metrics_log import MetricsLog, read_metrics
from dreamer_jax.report.progress import Progress
from dreamer_jax.report.results.runs import RESUMES
from dreamer_jax.report.wandb.process import (
    MAX_TAG,
    RunInfo,
    WandbProcess,
    run_group,
    shorten,
)
from dreamer_jax.run.processes import ALONE, Processes, joined
from dreamer_jax.run.workdir import WorkDir
from dreamer_jax.types import MetricVector

_add = jax.jit(lambda total, metrics: jax.tree.map(jnp.add, total, metrics), donate_argnums=0)


class Reporter:
    """Writes the metrics, curves and faults of all members.

    Of several processes, the first one writes what all others send; each writes its own faults.
    """

    def __init__(
        self,
        config: ConfigDict,
        work: WorkDir,
        progress: Progress,
        env_name: str,
        processes: Processes = ALONE,
    ):
        self._config, self._work, self._progress = config, work, progress
        self._env_name, self._processes = env_name, processes
        members, labels = sweep.members(config), sweep.member_labels(config)
        self._numbers = processes.share(len(members))
        self._members = [members[number] for number in self._numbers]
        self._labels = [labels[number] for number in self._numbers]
        self._log = MetricsLog(work.metrics, warn=progress.print) if processes.first else None
        self._wandb: WandbProcess | None = None
        self._sums: MetricVector | None = None  # since the last log line
        self._frozen = np.zeros(len(self._members), bool)
        self._faults = np.zeros(len(self._members), int)  # number of replaced environments
        self._clock = (time.monotonic(), 0, 0)  # at the last log line: seconds, env step, update

    def add(self, metrics: MetricVector) -> None:
        """Add the metrics of an update to the sums on the device."""
        self._sums = metrics if self._sums is None else _add(self._sums, metrics)

    def write(
        self,
        env_step: int,
        update: int,
        episodes: Sequence[Mapping],
        skipped: np.ndarray,
        frozen: np.ndarray,
        diagnostics: Sequence[Mapping[str, float]],
    ) -> None:
        """Write a log line per member, with the means of the metrics added since the last one.

        Args:
            env_step, update: progress of the run.
            episodes: [M] statistics of the episodes since the last log line.
            skipped: [M] int, updates skipped so far.
            frozen: [M] bool, True for members that are no longer updated.
            diagnostics: [M] metrics that are not means over updates.
        """
        now = (time.monotonic(), env_step, update)
        seconds, steps, updates = (b - a for a, b in zip(self._clock, now, strict=True))
        self._clock = now
        rates = {
            "frames_per_s": steps * self._config.env.action_repeat / seconds,
            "updates_per_s": updates / seconds,
        }
        records = [
            {**episodes[m], **means, "skipped_updates": int(skipped[m]), "frozen": bool(frozen[m])}
            | ({"env_faults": int(self._faults[m])} if self._faults[m] else {})
            | diagnostics[m]
            | rates
            for m, means in enumerate(self._pop_means())
        ]
        rows = self._write_rows(env_step, update, records)
        if self._processes.first:
            returns = [row.get("train_return") for row in rows]
            self._progress.update(env_step, self._frame(env_step), update, returns)
        for member in np.flatnonzero(frozen & ~self._frozen):
            self._progress.print(
                f"member {self._numbers[member]} ({self._members[member]}) is frozen after "
                f"{self._config.max_nonfinite} consecutive updates with non-finite losses or "
                "gradients; the others continue"
            )
        self._frozen = np.array(frozen)

    def write_evaluation(self, env_step: int, update: int, records: Sequence[Mapping]) -> None:
        """Write a line per member with the record of its evaluation."""
        rows = self._write_rows(env_step, update, records)
        if self._processes.first:
            frame, unchanged = self._frame(env_step), [None] * len(rows)
            returns = [row["eval_return"] for row in rows]
            self._progress.update(env_step, frame, update, unchanged, eval_returns=returns)

    def draw_curves(self) -> None:
        """Draw the curves so far."""
        if not self._processes.first:
            return
        rows = read_metrics(self._work.metrics)
        draw_curves(rows, self._work.curves, title=self._env_name)

    def fault(self, env_step: int, member: int, name: str, text: str) -> None:
        """Report an environment that failed and is replaced.

        Args:
            env_step: env steps so far.
            member: the environment's member among those of this process.
            name: the environment in words.
            text: a description whose last line is the reason.
        """
        self._faults[member] += 1
        failure = f"{name} of member {self._numbers[member]} failed at env step {env_step}"
        reason = (text.strip().splitlines() or ["no reason is known"])[-1]
        path = self._work.faults
        if not self._processes.first:  # shared storage may not append from two machines
            path = path.with_suffix(f".{self._processes.index}{path.suffix}")
        self._progress.print(f"{failure} and is replaced: {reason} (more in {path})")
        self._append(path, f"{failure}\n{text.strip()}\n\n")

    def state(self) -> list[dict]:
        """Return M JSON records for `restore`; `sums` are None if no update followed a log line."""
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
        """Return the `offset` in metrics.jsonl, in bytes, and the `pending` lines.

        Afterwards the bytes before the offset are on disk, unless the disk fails.
        """
        if self._log is None:
            return {}
        self._log.flush()
        return {"offset": self._log.offset, "pending": self._log.pending}

    def restore(
        self,
        records: Sequence[Mapping] | None,
        position: Mapping | None,
        env_step: int,
        update: int,
    ) -> None:
        """Return to a checkpoint, or to the beginning of the run, and report to W&B from there.

        Args:
            records: a `state()`, or None at the beginning. A member without sums counts as zeros
                if others have some.
            position: a `log_position()`, or None at the beginning.
            env_step, update: progress of the run.
        """
        self._clock = (time.monotonic(), env_step, update)
        if records is not None:
            self._frozen = np.array([record["frozen"] for record in records])
            self._faults = np.array([record["faults"] for record in records])
            self._sums = _stack_sums([record["sums"] for record in records])
        if self._log is None:
            return
        self._log.cut(**position or {"offset": 0})
        if records is not None:
            self._append(self._work.path / RESUMES, f"resumed at env step {env_step}\n")
        if self._config.wandb.mode != "disabled":
            info = _run_info(self._config, self._work, self._env_name)
            self._wandb = WandbProcess(self._work.path, info, warn=self._progress.print)

    def close(self) -> None:
        """Write the pending lines, and wait for W&B to receive the rest."""
        if self._log is None:
            return
        try:
            self._log.close()
        except OSError as error:
            # A run that resumes from its last checkpoint writes them again.
            self._progress.print(f"{self._work.metrics} is incomplete: {error.strerror}")
        if self._wandb is not None:
            self._wandb.close()

    def _append(self, path: Path, text: str) -> None:
        """Append a text with the time to a file, or print it if the file cannot be written."""
        try:
            # Tracebacks may quote anything, and the locale's encoding may lack it.
            with open(path, "a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}")
        except OSError as error:
            self._progress.print(f"{path} cannot be written: {error}\n{text}")

    def _pop_means(self) -> list[dict[str, float]]:
        """Return each member's means since the last call; empty if it has made no update."""
        sums, self._sums = jax.device_get(self._sums), None
        if sums is None:
            return [{} for _ in self._members]
        counts = sums[COUNTED]
        means = {name: total / np.maximum(counts, 1) for name, total in sums.items()}
        del means[COUNTED]
        return [
            {name: float(mean[m]) for name, mean in means.items()} if counts[m] else {}
            for m in range(len(self._members))
        ]

    def _write_rows(self, env_step: int, update: int, records: Sequence[Mapping]) -> list[dict]:
        """Write rows of the members of all processes, and return them."""
        head = {"env_step": env_step, "frame": self._frame(env_step), "update": update}
        own = [
            {"member": number, "seed": member.seed} | head | label | dict(record)
            for number, member, label, record in zip(
                self._numbers, self._members, self._labels, records, strict=True
            )
        ]
        rows = joined(self._processes.exchange(own))
        if self._log is not None:
            self._log.write(rows)
        if self._wandb is not None:
            self._wandb.check()
        return rows

    def _frame(self, env_step: int) -> int:
        return env_step * self._config.env.action_repeat


def _stack_sums(sums: Sequence[Mapping[str, float] | None]) -> MetricVector | None:
    """Return sums of members on the device; None if no member has any."""
    names = next((tuple(entry) for entry in sums if entry is not None), None)
    if names is None:
        return None
    rows = [entry or dict.fromkeys(names, 0.0) for entry in sums]
    values = [[row[name] for name in names] for row in rows]
    return MetricVector(jnp.asarray(values, jnp.float32), names)


def _run_info(config: ConfigDict, work: WorkDir, env_name: str) -> RunInfo:
    # First the tags that distinguish the runs of a project, then the user's own.
    tags = [env_name, config.behavior, config.objective]
    tags += [tag.strip() for tag in config.wandb.tags.split(",") if tag.strip()]
    return RunInfo(
        mode=config.wandb.mode,
        entity=config.wandb.entity,
        project=config.wandb.project,
        group=run_group(work.path, config.wandb.group),
        tags=list(dict.fromkeys(shorten(tag, MAX_TAG) for tag in tags)),
        members=sweep.member_configs(config),
        action_repeat=config.env.action_repeat,
        command=sys.argv,
    )
