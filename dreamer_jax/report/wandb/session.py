"""The W&B runs of one reader: opened, sent to and finished; each call waits for W&B."""

import collections
import contextlib
import dataclasses
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import wandb
import yaml

from dreamer_jax.metrics import HYPER
from dreamer_jax.report.aggregates import FROZEN, aggregate, common_values
from dreamer_jax.report.video import open_loop_videos
from dreamer_jax.report.wandb.outbox import Group, PendingRows, SyncState
from dreamer_jax.report.wandb.process import RunInfo, SweepAgent

# Seconds until history rows are on the disk. W&B's service process loses what it still holds
# when the reader is killed.
FLUSH_SECONDS = 1.0
# Seconds that the service may continue an upload at the end. Without a limit it outlives the
# reader for as long as the network is down.
UPLOAD_SECONDS = 45.0


class WandbSession:
    """One W&B run per member and one of their aggregates. Every method may raise what W&B does.

    A row is recorded as sent before it is sent, so that it cannot appear twice, whatever is killed.
    SIGKILL of the reader loses the rows (in W&B, not in metrics.jsonl) that the service has not
    stored by then: offline those of about the last second; online those that are not uploaded,
    which `wandb sync` can still send from the work directory.
    """

    def __init__(
        self,
        workdir: Path,
        info: RunInfo,
        warn: Callable[[str], None],
        agent: SweepAgent | None = None,
    ):
        """Open the W&B runs: those of `wandb.json` if entity, project and group are the same.

        With an agent, the aggregate is its run, and all runs are in the project of its sweep.
        """
        if agent is not None:
            places = {"entity": agent.entity, "project": agent.project}
            info = dataclasses.replace(info, **{k: v for k, v in places.items() if v})
        self._info, self._warn = info, warn
        self._videos, self._state_file = workdir / "videos", workdir / "wandb.json"
        target = {"entity": info.entity, "project": info.project, "group": info.group}
        num_members = len(info.members)
        self._sent = _load_state(self._state_file, target, num_members + 1, agent and agent.run)
        place = (self._sent.env_step, self._sent.lines)
        self._pending = PendingRows(workdir / "metrics.jsonl", num_members=num_members, place=place)
        self._frozen: set[int] = set()
        sys.argv = list(info.command)  # W&B shows it as the command of its runs
        names = _run_names(info.group, [config["seed"] for config in info.members])
        configs = [*info.members, common_values(info.members) | _parameters(agent)]
        sweeps = [None] * num_members + [agent and agent.sweep]
        types = ["member"] * num_members + ["aggregate"]
        shared = {"mode": info.mode, "tags": tuple(info.tags), "dir": str(workdir), **target}
        self._runs = [
            self._open_run(
                id=run_id, name=name, config=config, job_type=job_type, sweep=sweep, **shared
            )
            for run_id, name, config, job_type, sweep in zip(
                self._sent.ids, names, configs, types, sweeps, strict=True
            )
        ]

    def _open_run(self, *, name: str, job_type: str, sweep: str | None, **arguments) -> Any:
        run = wandb.init(
            **arguments,
            name=name,
            job_type=job_type,
            allow_val_change=True,
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(
                console="off",
                finish_timeout=UPLOAD_SECONDS,
                finish_timeout_raises=True,
                program=self._info.command[0],
                silent=True,
                sweep_id=sweep,
                save_code=False,
                # One member's stop button would have to stop all members.
                stop_fn=partial(
                    self._warn,
                    f"a stop of {name} was requested and is ignored; stop the training process",
                ),
                x_disable_stats=job_type == "member",  # the aggregate has the load of the machine
                x_transaction_log_flush_interval=FLUSH_SECONDS,
            ),
        )
        run.define_metric("frame")
        run.define_metric("*", step_metric="frame")
        return run

    def send_rows(self) -> bool:
        """Send the groups of rows that have been completed; return whether there were any."""
        found = False
        for group in self._pending.read():
            found = True
            self._send(group)
        return found

    def send_videos(self) -> None:
        """Send the open-loop videos that are newer than the last one of their name."""
        for video in open_loop_videos(self._videos):
            panel = f"open_loop/{video.key}"  # in W&B, where a later video is its next step
            key = f"{video.member}/{panel}"
            if video.env_step <= self._sent.videos.get(key, -1):
                continue
            values = {
                panel: wandb.Video(str(video.path)),
                "env_step": video.env_step,
                "frame": video.env_step * self._info.action_repeat,
            }
            state = self._sent.with_video(video.member, key, video.env_step)
            with self._recorded(state) as steps:
                self._runs[video.member].log(values, step=steps[video.member], commit=True)

    def finish(self) -> None:
        """Finish the runs, all at once: each waits for its own upload."""
        with ThreadPoolExecutor(len(self._runs)) as pool:
            for finished in [pool.submit(run.finish) for run in self._runs]:
                finished.result()

    def _send(self, group: Group) -> None:
        """Send a history row to every member of a group and to the aggregate."""
        with self._recorded(self._sent.with_rows(group.env_step, group.lines)) as steps:
            for row in group.rows:
                member = row["member"]
                self._runs[member].log(history_values(row), step=steps[member], commit=True)
                if row.get(FROZEN) and member not in self._frozen:
                    self._frozen.add(member)
                    run = self._runs[member]
                    run.summary[FROZEN] = True
                    run.tags = (*run.tags, FROZEN)
            self._runs[-1].log(aggregate(group.rows), step=steps[-1], commit=True)

    @contextlib.contextmanager
    def _recorded(self, after: SyncState) -> Iterator[tuple[int, ...]]:
        """Record a state while the block sends what leads to it; take it back if that fails.

        Yields the number of each run's next history row: W&B's own count would start at 0 again in
        a process that resumes offline.
        """
        before, self._sent = self._sent, after
        after.save(self._state_file)
        try:
            yield before.steps
            # `log` returns before the service has read it. An answer says that the service lives
            # and has read everything up to here.
            self._runs[-1].status()
        except Exception:
            before.save(self._state_file)
            raise


def history_values(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row's entries for its member's history: all that the run does not say already."""
    return {
        # W&B draws no line of booleans.
        key: int(value) if isinstance(value, bool) else value
        for key, value in row.items()
        if value is not None and key not in ("member", "seed") and not key.startswith(HYPER)
    }


def _load_state(
    path: Path, target: Mapping[str, str | None], num_runs: int, last_id: str | None
) -> SyncState:
    """Return the state in a file, or that of new runs if it has none for this target.

    `last_id` is the id that the last run must have; None for any.
    """
    state = SyncState.load(path)
    same = state is not None and state.target == target and len(state.ids) == num_runs
    if not same or last_id not in (None, state.ids[-1]):
        ids = tuple(uuid.uuid4().hex[:12] for _ in range(num_runs))
        ids = (*ids[:-1], last_id or ids[-1])
        state = SyncState(target, ids, steps=(0,) * num_runs)
        # Before the runs exist, so that a kill here leaves no run that is not recorded.
        state.save(path)
    return state


def _parameters(agent: SweepAgent | None) -> dict[str, Any]:
    """Return the values that a W&B sweep has chosen, by the names that they have there."""
    if agent is None or agent.parameters is None:
        return {}
    chosen = yaml.safe_load(Path(agent.parameters).read_text())
    return {name: entry["value"] for name, entry in chosen.items() if name != "wandb_version"}


def _run_names(group: str, seeds: Sequence[int]) -> list[str]:
    """Return distinct names for the members, then the aggregate's."""
    counts = collections.Counter(seeds)
    names = [
        f"{group}/seed{seed}" + (f"-member{member}" if counts[seed] > 1 else "")
        for member, seed in enumerate(seeds)
    ]
    return [*names, f"{group}/aggregate"]
