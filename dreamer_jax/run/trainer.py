"""The training run: steps environments, updates all members, logs, evaluates, saves, resumes."""

import contextlib
import time
from functools import partial
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from dreamer_jax.agent.guard import is_frozen
from dreamer_jax.config import sweep
from dreamer_jax.envs.vector import FaultLimit
from dreamer_jax.errors import UsageError
from dreamer_jax.files import DISK_FULL
from dreamer_jax.replay.prefetch import Prefetcher
from dreamer_jax.report.progress import Progress
from dreamer_jax.run import setup as run_lib
from dreamer_jax.run.checkpoint import Checkpoints
from dreamer_jax.run.driver import Driver
from dreamer_jax.run.evaluation import play_episodes, summarize
from dreamer_jax.run.open_loop import write_open_loop
from dreamer_jax.run.reporter import Reporter
from dreamer_jax.run.saver import Saver
from dreamer_jax.run.setup import MakeEnv, RunSetup
from dreamer_jax.run.signals import Stopped, StopSignals
from dreamer_jax.run.workdir import WorkDir
from dreamer_jax.seeding import ENV_STREAM
from dreamer_jax.types import PolicyCarry, TrainState


def train(config: ConfigDict, workdir: str | Path, make_env: MakeEnv | None = None) -> dict:
    """Train all members of a config; go on from the last checkpoint in `workdir` if there is one.

    SIGTERM and SIGINT (Ctrl-C) end it early and in order: it saves a checkpoint and returns.

    Args:
        config: see keys.py; make_env: `seed -> gymnasium.Env`, used in place of `config.task`.

    Returns:
        `finished`, `env_step`, `update`, and `members`: a record per member with its final
        evaluation; None if the run has not finished.

    Raises:
        UsageError: the config is invalid, does not fit the environment, or is not the one of the
            work directory, or another process has that; nothing has been changed then.
        OSError: the disk is full; the last checkpoint is intact.
        TooManyFaults: environments failed more often than `config.env.max_faults` allows.
    """
    parts = run_lib.build(config, make_env)
    work = WorkDir(workdir)
    with work.claim(config):
        summary = work.read_summary()
        if summary is not None and summary["env_step"] >= config.steps:
            return summary
        settings = [member.setting for member in sweep.members(config)]
        shown = Progress(config.steps, parts.seeds, settings=settings)
        with StopSignals() as stop, shown as progress:
            progress.print(run_lib.describe(parts, work))
            with contextlib.ExitStack() as closing:
                return Trainer(parts, work, progress, stop, closing).run()


class Trainer:
    """One run in progress.

    Args:
        closing: is given what lets go of processes, threads and files.
    """

    def __init__(
        self,
        parts: RunSetup,
        work: WorkDir,
        progress: Progress,
        stop: StopSignals,
        closing: contextlib.ExitStack,
    ):
        self._parts, self._config, self._work = parts, parts.config, work
        self._progress, self._stop = progress, stop
        checkpoints = Checkpoints(
            work.checkpoints, self._config.checkpoint_keep, self._config.checkpoint_keep_every
        )
        closing.callback(checkpoints.close)
        if checkpoints.steps():
            work.check_replay(self._config)
        self._replay = parts.make_replay(work)
        closing.callback(self._replay.close)
        self._saver = Saver(
            checkpoints,
            self._replay,
            margin=run_lib.replay_margin(self._config),
            minutes=self._config.checkpoint_minutes,
            warn=progress.print,
        )
        self._records = Reporter(self._config, work, progress)
        closing.callback(self._records.close)
        self._limit = FaultLimit(self._config.env.max_faults, log=lambda row, text: None)
        num_envs = self._config.env.num_envs
        self._vector = parts.make_vector(
            ENV_STREAM,
            num_envs,
            partial(self._on_fault, "environment", num_envs),
            workers=self._config.env.workers,
        )
        closing.callback(self._vector.close)
        self._driver = Driver(self._vector, self._replay, parts.seeds, parts.obs_keys)
        self._prefetch = Prefetcher(self._replay, parts.placement.by_sequence)
        closing.callback(self._prefetch.close)
        self._state: TrainState | None = None
        self._carry: PolicyCarry | None = None
        self._env_step = self._update = 0
        self._due: list[str] = []  # records of this env step that are still to be made, in order
        self._summary: list[dict] | None = None  # of the final evaluation

    def run(self) -> dict:
        """Train to the end of the run, or until it is to stop."""
        self._restore()
        finished = False
        try:
            self._keep_records()
            while self._env_step < self._config.steps:
                self._stop.check()
                self._step()
                self._keep_records()
            finished = True
        except Stopped:
            self._save(wait=True)
            self._progress.print(f"stopped at env step {self._env_step}; it can be resumed")
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            saved = "no checkpoint yet" if self._saver.step is None else self._saver.step
            message = f"{error.strerror}; stopped at env step {self._env_step}, saved: {saved}"
            raise OSError(error.errno, message, error.filename) from error
        result = {
            "finished": finished,
            "env_step": self._env_step,
            "update": self._update,
            "members": self._summary if finished else None,
        }
        if finished:
            self._work.write_summary(result)
        return result

    def _on_fault(self, name: str, num_envs: int, row: int, text: str) -> None:
        member, env = divmod(row, num_envs)
        self._records.fault(self._env_step, member, f"{name} {env}", text)
        self._limit(row, text)

    def _step(self) -> None:
        """One decision in every environment, and the updates that are due."""
        config = self._config
        # One update is dispatched behind the policy below; more than that are made before.
        self._update_members(run_lib.updates_due(config, self._env_step) - 1)
        obs, is_first = self._driver.begin()
        if self._env_step < config.prefill:
            failed = self._driver.finish(self._driver.random_actions(self._env_step))
        else:
            self._carry, action = self._act(obs, is_first)
            # Dispatched behind the policy: it runs while the environments step below.
            self._update_once()
            action = np.asarray(action)
            failed = self._driver.finish(run_lib.to_env_actions(action, self._parts.discrete))
        if failed.any():
            self._prefetch.settle()  # it may be reading the records that are closed
            self._replay.close_open(failed)
        self._env_step += config.env.num_envs
        self._due = run_lib.records_due(config, self._env_step)

    def _act(
        self, obs: dict[str, np.ndarray], is_first: np.ndarray
    ) -> tuple[PolicyCarry, jax.Array]:
        fns, state, inputs = self._parts.fns, self._state, (self._carry, obs, is_first)
        if run_lib.explores(self._config, self._env_step):
            return fns.explore_step(state.params, *inputs, state.update)
        return fns.policy_step(state.params, *inputs)

    def _update_members(self, due: int) -> None:
        """Make updates until there are `due`."""
        while self._update < due:
            self._stop.check()
            self._update_once()

    def _update_once(self) -> None:
        """Make an update, if one is due."""
        if self._update >= run_lib.updates_due(self._config, self._env_step):
            return
        if not self._replay.ready:
            raise UsageError(
                f"after a prefill of {self._config.prefill} steps the replay has no sequence of "
                f"config.length = {self._config.length} steps for every member; with episodes "
                "shorter than that use config.replay.sampling = 'time', else a longer "
                "config.prefill"
            )
        self._state, metrics = self._parts.fns.train_step(self._state, self._prefetch.next())
        self._records.add(metrics)
        self._update += 1

    def _keep_records(self) -> None:
        """Make what is due at this env step; broken off, the rest is made after a resume."""
        make = {
            "log": self._log,
            "updates": lambda: self._update_members(
                run_lib.updates_due(self._config, self._env_step)
            ),
            "evaluation": self._evaluate,
            "pictures": self._draw,
        }
        while self._due and self._due[0] != "checkpoint":
            make[self._due[0]]()
            self._due.pop(0)
        if self._due or self._saver.due():
            self._due = []
            self._save(wait=self._env_step >= self._config.steps)
        self._saver.collect()

    def _log(self) -> None:
        frozen = is_frozen(self._state, self._config.max_nonfinite)
        skipped, frozen = jax.device_get((self._state.skipped, frozen))
        self._records.write(
            self._env_step,
            self._update,
            self._driver.stats.pop(),
            skipped=skipped,
            frozen=frozen,
        )

    def _evaluate(self) -> None:
        episodes, records = self._config.eval_episodes, [{} for _ in self._parts.seeds]
        if episodes:
            returns, lengths, _ = play_episodes(
                self._parts,
                self._state.params,
                episodes,
                on_fault=partial(self._on_fault, "evaluation environment", episodes),
                check=self._stop.check,
            )
            records = summarize(self._parts, returns, lengths)
            self._records.write_evaluation(self._env_step, self._update, records)
        if self._env_step >= self._config.steps:
            self._summary = records

    def _draw(self) -> None:
        """Open-loop videos of the next batch, and the curves so far."""
        params, step = self._state.params, self._env_step

        def write_videos():
            # Before the first update no batch is in flight, and a draw for the sake of a picture
            # would change what is learned.
            if not self._update:
                return []
            return write_open_loop(self._parts, params, self._prefetch.peek(), self._work, step)

        self._records.draw(step, write_videos)

    def _save(self, *, wait: bool) -> None:
        """Save everything that the run goes on from. The replay's part is its cursors."""
        host = {
            "rows": self._vector.state(),  # first: asked for their states, environments may fail
            "env_step": self._env_step,
            "update": self._update,
            "due": self._due,
            "summary": self._summary,
            "replay": self._replay.state(),
            "prefetch": self._prefetch.state(),
            "driver": self._driver.state(),
            "records": self._records.state(),
            "log": self._records.log_position(),
        }
        self._saver.save({"state": self._state, "carry": self._carry}, host)
        self._saver.collect(wait=wait)

    def _restore(self) -> None:
        """Go on from the newest checkpoint, or start."""
        began = time.monotonic()
        found = self._saver.restore(self._parts.saved_shapes())
        if found is None:
            self._records.restore(None, None, 0, 0)
            self._state, self._carry = self._parts.init_state(), self._parts.init_policy()
            return
        arrays, host = found
        self._state, self._carry = arrays["state"], arrays["carry"]
        self._env_step, self._update = host["env_step"], host["update"]
        self._due, self._summary = host["due"], host["summary"]
        self._prefetch.restore(host["prefetch"])
        restored = self._vector.restore(host["rows"])
        self._prefetch.settle()
        self._driver.restore(host["driver"], restored)
        self._records.restore(host["records"], host["log"], self._env_step, self._update)
        self._progress.print(
            f"resuming at env step {self._env_step}, update {self._update}, restored in "
            f"{time.monotonic() - began:.1f} s"
        )
        if not restored.all():
            self._progress.print(
                f"{int((~restored).sum())} of {len(restored)} environments could not be restored; "
                "their open episodes are closed as truncated, and new ones begin"
            )
