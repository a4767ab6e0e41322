"""The W&B runs of one process: opened, sent to and finished, each call waiting for W&B."""

import collections
import contextlib
import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dreamer_jax.report.aggregates import FROZEN, aggregate, common_values
from dreamer_jax.report.wandb_outbox import Group, Sent, UnsentRows
from dreamer_jax.types import HYPER

# Seconds until history rows are on the disk. W&B's service process loses what it still holds
# when the training process is killed.
FLUSH_SECONDS = 1.0
# Seconds that the service may go on with an upload at the end. Without a limit it outlives the
# training process for as long as the network is down.
UPLOAD_SECONDS = 45.0


class WandbSession:
    """One W&B run per member and one of their aggregates. Every method may raise what W&B does."""

    def __init__(
        self,
        metrics: Path,
        *,
        mode: str,
        target: Mapping[str, str | None],
        tags: Sequence[str],
        member_configs: Sequence[Mapping[str, Any]],
        state_file: Path,
        directory: Path,
        warn: Callable[[str], None],
        ended: threading.Event,
    ):
        """Opens the runs, those of `state_file` if it has runs of this target.

        Args:
          target: entity, project and group.
          ended: set by another thread when this session is given up; nothing is sent or noted
            from then on.
          The others are those of `WandbRuns`.
        """
        # W&B reports its own errors to its server, offline too, and where that does not answer, the
        # exit of the process waits 10 s for it.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        # Not at the top: the import starts threads and replaces sys.stdout's methods.
        import wandb

        wandb.setup(wandb.Settings(silent=True))
        logging.getLogger("asyncio").addFilter(_is_news)
        self._wandb = wandb
        self._state_file, self._warn, self._ended = state_file, warn, ended
        directory.mkdir(parents=True, exist_ok=True)
        num_members = len(member_configs)
        self._sent = _load(state_file, target, num_members + 1)
        self._unsent = UnsentRows(metrics, num_members=num_members, sent=self._sent)
        self._frozen: set[int] = set()
        names = _run_names(target["group"], [config["seed"] for config in member_configs])
        configs = [*member_configs, common_values(member_configs)]
        self._runs = [
            self._open_run(
                index,
                name=names[index],
                config=dict(config),
                is_member=index < num_members,
                mode=mode,
                tags=tuple(tags),
                dir=str(directory),
                **target,
            )
            for index, config in enumerate(configs)
        ]

    def _open_run(self, index: int, *, name: str, is_member: bool, **arguments) -> Any:
        run = self._wandb.init(
            **arguments,
            id=self._sent.ids[index],
            name=name,
            job_type="member" if is_member else "aggregate",
            allow_val_change=True,
            resume="allow",
            reinit="create_new",
            settings=self._wandb.Settings(
                console="off",
                finish_timeout=UPLOAD_SECONDS,
                finish_timeout_raises=True,
                silent=True,
                save_code=False,
                stop_fn=partial(self._refuse_stop, name),
                x_disable_stats=is_member,
                x_transaction_log_flush_interval=FLUSH_SECONDS,
            ),
        )
        run.define_metric("frame")
        run.define_metric("*", step_metric="frame")
        return run

    def _refuse_stop(self, name: str) -> None:
        # W&B would interrupt the main thread: one member's button would stop all members.
        self._warn(f"W&B: a stop of {name} was asked for and is ignored; stop this process instead")

    def send_rows(self, offset: int) -> None:
        """Sends the rows before byte `offset` of metrics.jsonl, but for a group that is not whole:
        its other rows are awaited."""
        for group in self._unsent.read(offset):
            if self._ended.is_set():
                return
            self._send(group)

    def send_video(self, member: int, name: str, path: Path, env_step: int) -> None:
        """Sends a video that is newer than the last of its name; warns if it does not exist."""
        key = f"{member}/{name}"
        if env_step <= self._sent.videos.get(key, -1):
            return
        if not path.is_file():
            self._warn(f"W&B: {path} does not exist and is not shown")
            return
        values = {
            name: self._wandb.Video(str(path)),
            "env_step": env_step,
            "frame": env_step * self._unsent.frames_per_step,
        }
        with self._noted(self._sent.with_video(member, key, env_step)) as steps:
            self._runs[member].log(values, step=steps[member], commit=True)

    def finish(self) -> None:
        """Sends what is left and finishes the runs, all at once: each waits for its own upload."""
        for group in self._unsent.rest():
            self._send(group)
        errors = []

        def finish(run):
            try:
                run.finish()
            except Exception as error:
                errors.append(error)

        threads = [threading.Thread(target=finish, args=(r,), daemon=True) for r in self._runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    def _send(self, group: Group) -> None:
        """One history row for every member of the group and for the aggregates."""
        with self._noted(self._sent.with_rows(group.env_step, group.lines)) as steps:
            for row in group.rows:
                member = row["member"]
                self._runs[member].log(_values(row), step=steps[member], commit=True)
                if row.get(FROZEN):
                    self._mark_frozen(member)
            self._runs[-1].log(aggregate(group.rows), step=steps[-1], commit=True)

    @contextlib.contextmanager
    def _noted(self, after: Sent) -> Iterator[tuple[int, ...]]:
        """Notes something as sent while the block sends it; takes the note back if that fails.

        Gives the number of each run's next history row. W&B's own count would start at 0 again in
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
            if not self._ended.is_set():
                before.save(self._state_file)
            raise

    def _mark_frozen(self, member: int) -> None:
        if member not in self._frozen:
            self._frozen.add(member)
            run = self._runs[member]
            run.summary[FROZEN] = True
            run.tags = (*run.tags, FROZEN)


def _is_news(record: logging.LogRecord) -> bool:
    """Not so asyncio's line for every write to a service that has died: one warning says it."""
    return record.getMessage() != "socket.send() raised exception."


def _load(state_file: Path, target: Mapping[str, str | None], num_runs: int) -> Sent:
    sent = Sent.load(state_file)
    if sent is None or sent.target != target or len(sent.ids) != num_runs:
        ids = tuple(uuid.uuid4().hex[:12] for _ in range(num_runs))
        sent = Sent(target, ids, steps=(0,) * num_runs)
        # Before the runs exist, so that a kill here leaves no run that nothing knows of.
        sent.save(state_file)
    return sent


def _run_names(group: str, seeds: Sequence[int]) -> list[str]:
    """Of the members, told apart where seeds are not, and of the aggregates."""
    counts = collections.Counter(seeds)
    names = [
        f"{group}/seed{seed}" + (f"-member{member}" if counts[seed] > 1 else "")
        for member, seed in enumerate(seeds)
    ]
    return [*names, f"{group}/aggregate"]


def _values(row: Mapping[str, Any]) -> dict[str, Any]:
    """What of a row goes into a member's history: all but whose it is and what is missing."""
    return {
        # W&B draws no line of booleans.
        key: int(value) if isinstance(value, bool) else value
        for key, value in row.items()
        if value is not None and key not in ("member", "seed") and not key.startswith(HYPER)
    }
