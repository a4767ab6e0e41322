"""The training run: steps environments, updates all members, logs, evaluates, saves, resumes."""

import base64
import contextlib
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dreamer_jax import run as run_lib
from dreamer_jax.checkpoint import Checkpoints
from dreamer_jax.curves import draw_curves
from dreamer_jax.driver import ENV_STREAM, Driver
from dreamer_jax.evaluation import play_episodes, summarize
from dreamer_jax.logger import MetricsLog, read_metrics
from dreamer_jax.names import UsageError
from dreamer_jax.open_loop import write_open_loop
from dreamer_jax.prefetch import Prefetcher
from dreamer_jax.progress import Progress
from dreamer_jax.run import MakeEnv, Parts
from dreamer_jax.train_state import TrainState
from dreamer_jax.types import Batch, Metrics, PolicyCarry
from dreamer_jax.workdir import WorkDir

_add = jax.jit(lambda total, metrics: jax.tree.map(jnp.add, total, metrics), donate_argnums=0)


def train(config: ConfigDict, workdir: str | Path, make_env: MakeEnv | None = None) -> dict:
    """Train all members of a config; go on from the last checkpoint in `workdir` if there is one.

    Args:
        config: see config.py; make_env: `seed -> gymnasium.Env`, used in place of `config.task`.

    Returns:
        `env_step`, `update`, and `members`: a record per member with its final evaluation.

    Raises:
        UsageError: the config is invalid, does not fit the environment, or is not the one of the
            work directory; nothing has been changed then.
        OSError: the disk has no room for the replay.
    """
    parts = run_lib.build(config, make_env)
    work = WorkDir(workdir)
    work.claim(config)
    with Progress(config.steps, parts.seeds) as progress:
        where = work.replay if config.replay.storage == "disk" else "memory"
        size = run_lib.describe_bytes(parts.replay_bytes())
        progress.print(f"{len(parts.seeds)} members; replay grows to {size} in {where}")
        trainer = Trainer(parts, work, progress)
        try:
            return trainer.run()
        finally:
            trainer.close()


class Trainer:
    """One run in progress."""

    def __init__(self, parts: Parts, work: WorkDir, progress: Progress):
        self._parts, self._config, self._work = parts, parts.config, work
        self._progress = progress
        self._checkpoints = Checkpoints(work.checkpoints, self._config.checkpoint_keep)
        on_disk = self._config.replay.storage == "disk"
        if on_disk and self._checkpoints.latest() is not None and not work.replay.is_dir():
            raise UsageError(f"{work.replay} is gone; the run cannot go on without its replay")
        self._replay = parts.make_replay(work)
        self._prefetch = Prefetcher(self._replay)
        num_envs = self._config.env.num_envs
        workers = self._config.env.workers
        self._vector = parts.make_vector(ENV_STREAM, num_envs, workers=workers)
        self._driver = Driver(self._vector, self._replay, parts.seeds, parts.obs_keys)
        self._log = MetricsLog(work.metrics, warn=progress.print)
        self._state: TrainState | None = None
        self._carry: PolicyCarry | None = None
        self._env_step = self._update = 0
        self._metrics: Metrics | None = None  # sums since the last log line, [M] each
        self._metrics_count = 0
        self._last_batch: Batch | None = None
        self._summary: list[dict] | None = None  # of the final evaluation
        self._clock = (time.monotonic(), 0, 0)  # at the last log line: seconds, env step, update

    def run(self) -> dict:
        """Train to the end of the run."""
        self._restore()
        if not self._finished:
            while self._env_step < self._config.steps:
                self._step()
                self._keep_records()
            self._update_members()
            self._finish()
        return {
            "env_step": self._env_step,
            "update": self._update,
            "members": self._summary,
        }

    @property
    def _finished(self) -> bool:
        return self._summary is not None and self._env_step >= self._config.steps

    def close(self) -> None:
        """Let go of processes, threads and files, each even if another fails to."""
        parts = (self._log, self._replay, self._vector, self._checkpoints, self._prefetch)
        with contextlib.ExitStack() as stack:
            for part in parts:  # closed from the last to the first
                stack.callback(part.close)

    def _step(self) -> None:
        """One decision in every environment, and the updates that are due."""
        obs, is_first = self._driver.begin()
        if self._env_step < self._config.prefill:
            self._driver.finish(self._driver.random_actions(self._env_step))
        else:
            params = self._state.params
            self._carry, action = self._parts.fns.policy_step(params, self._carry, obs, is_first)
            # Dispatched behind the policy: it runs while the environments step below.
            self._update_members()
            action = np.asarray(action)
            self._driver.finish(run_lib.to_env_actions(action, self._parts.discrete))
        self._env_step += self._config.env.num_envs

    def _update_members(self) -> None:
        """The updates that are due at this step."""
        due = run_lib.updates_due(self._config, self._env_step)
        if self._update < due and not self._replay.ready:
            raise UsageError(
                f"after a prefill of {self._config.prefill} steps the replay has no sequence of "
                f"config.length = {self._config.length} steps for every member; with episodes "
                "shorter than that use config.replay.sampling = 'time', else a longer "
                "config.prefill"
            )
        while self._update < due:
            batch = self._prefetch.next()
            self._state, metrics = self._parts.fns.train_step(self._state, batch)
            self._metrics = metrics if self._metrics is None else _add(self._metrics, metrics)
            self._metrics_count += 1
            self._last_batch = batch
            self._update += 1

    def _keep_records(self) -> None:
        """Log, evaluate, draw and save where this step crossed an interval."""
        config = self._config
        ended = self._env_step >= config.steps
        if self._crossed(config.log_every) or ended:
            self._write_log()
        if ended:  # `_finish` saves, with what the last updates and the evaluation add
            return
        if self._crossed(config.eval_every):
            self._evaluate()
        if self._crossed(config.video_every):
            self._draw()
        slack_used_up = self._replay.slack_left <= run_lib.replay_margin(config)
        if self._crossed(config.checkpoint_every) or slack_used_up:
            self._save()
        self._mark_saved(wait=slack_used_up)

    def _crossed(self, every: int) -> bool:
        before = self._env_step - self._config.env.num_envs
        return every > 0 and self._env_step // every > before // every

    def _rows(self, records: list[dict]) -> list[dict]:
        """Put a record per member behind what every line of metrics.jsonl says."""
        frame = self._env_step * self._config.env.action_repeat
        return [
            {
                "member": member,
                "seed": self._parts.seeds[member],
                "env_step": self._env_step,
                "frame": frame,
                "update": self._update,
            }
            | record
            for member, record in enumerate(records)
        ]

    def _write_log(self) -> None:
        records = self._driver.stats.pop()
        returns = [record.get("train_return") for record in records]
        for name, total in (jax.device_get(self._metrics) or {}).items():
            for member, record in enumerate(records):
                record[name] = float(total[member]) / self._metrics_count
        self._metrics, self._metrics_count = None, 0
        now = (time.monotonic(), self._env_step, self._update)
        seconds, steps, updates = (b - a for a, b in zip(self._clock, now, strict=True))
        self._clock = now
        rates = {
            "frames_per_s": steps * self._config.env.action_repeat / seconds,
            "updates_per_s": updates / seconds,
        }
        self._log.write(self._rows([record | rates for record in records]))
        self._show(returns=returns)

    def _show(self, returns=None, eval_returns=None) -> None:
        nothing = [None] * len(self._parts.seeds)
        frame = self._env_step * self._config.env.action_repeat
        self._progress.update(
            self._env_step,
            frame,
            self._update,
            returns or nothing,
            eval_returns=eval_returns or nothing,
        )

    def _evaluate(self) -> list[dict]:
        episodes = self._config.eval_episodes
        if not episodes:
            return [{} for _ in self._parts.seeds]
        returns, lengths, _ = play_episodes(self._parts, self._state.params, episodes)
        records = summarize(self._parts.seeds, returns, lengths)
        self._log.write(self._rows(records))
        self._show(eval_returns=[record["eval_return"] for record in records])
        return records

    def _draw(self) -> None:
        """Open-loop videos of the last batch, and the curves so far."""
        rows = read_metrics(self._work.metrics)
        draw_curves(rows, self._work.curves, title=self._config.task)
        if self._last_batch is not None:
            write_open_loop(
                self._parts, self._state.params, self._last_batch, self._work, self._env_step
            )

    def _finish(self) -> None:
        self._summary = self._evaluate()
        self._draw()
        self._save()
        self._mark_saved(wait=True)

    def _save(self) -> None:
        """Save everything that the run goes on from. The replay's part is its cursors."""
        self._mark_saved(wait=True)
        self._prefetch.settle()
        self._replay.flush()
        self._log.flush()
        states = [s and base64.b64encode(s).decode() for s in self._vector.get_states()]
        metrics = jax.device_get(self._metrics)
        host = {
            "env_step": self._env_step,
            "update": self._update,
            "replay": self._replay.state(),
            "prefetch": self._prefetch.state(),
            "driver": self._driver.state(),
            "environments": states,
            "metrics": metrics and {k: v.tolist() for k, v in metrics.items()},
            "metrics_count": self._metrics_count,
            "log": {"offset": self._log.offset, "pending": self._log.pending},
            "summary": self._summary,
        }
        self._checkpoints.save(self._env_step, {"state": self._state, "carry": self._carry}, host)

    def _mark_saved(self, *, wait: bool) -> None:
        """Give the replay back the slack that a finished checkpoint has freed."""
        saved = self._checkpoints.completed(wait=wait)
        if saved is not None:
            self._replay.mark_checkpoint(saved["replay"])

    def _restore(self) -> None:
        """Go on from the newest checkpoint, or start."""
        step = self._checkpoints.latest()
        if step is None:
            self._log.cut(0)
            self._state, self._carry = self._parts.init_state(), self._parts.init_policy()
            return
        arrays, host = self._checkpoints.restore(step, self._parts.saved_shapes())
        self._state, self._carry = arrays["state"], arrays["carry"]
        self._env_step, self._update = host["env_step"], host["update"]
        self._summary = host["summary"]
        if self._config.replay.storage == "memory" and not self._finished:
            raise UsageError(
                f"the run in {self._work.path} cannot go on from step {step}: with "
                "config.replay.storage = 'memory' its replay is lost; use 'disk', or another work "
                "directory"
            )
        self._replay.restore(host["replay"])
        self._prefetch.restore(host["prefetch"])
        states = [s and base64.b64decode(s) for s in host["environments"]]
        self._driver.restore(host["driver"], self._vector.set_states(states))
        if host["metrics"] is not None:
            self._metrics = {k: jnp.asarray(v, jnp.float32) for k, v in host["metrics"].items()}
        self._metrics_count = host["metrics_count"]
        self._log.cut(host["log"]["offset"], host["log"]["pending"])
        self._clock = (time.monotonic(), self._env_step, self._update)
        self._progress.print(f"resuming at env step {self._env_step}, update {self._update}")
