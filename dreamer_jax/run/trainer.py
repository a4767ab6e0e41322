"""The training loop: step environments, update all members, log, evaluate, save, resume."""

import contextlib
import dataclasses
import json
import pickle
import shutil
import time
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from dreamer_jax import config as config_lib
from dreamer_jax.agent.guard import is_frozen
from dreamer_jax.agent.report import CANDIDATES, Report, least_interrupted
from dreamer_jax.config import sweep
from dreamer_jax.envs.vector import FaultLimit, OnFault
from dreamer_jax.errors import UsageError
from dreamer_jax.files import DISK_FULL
from dreamer_jax.replay.prefetch import Prefetcher, to_batch
from dreamer_jax.replay.replay import Replay
from dreamer_jax.replay.samplers import Indices
from dreamer_jax.report.progress import Progress
from dreamer_jax.report.video import open_loop_gif, open_loop_path, write_errors
from dreamer_jax.run import schedule
from dreamer_jax.run.checkpoint import Checkpoints, Saver
from dreamer_jax.run.driver import Driver, to_env_actions, without_env_states
from dreamer_jax.run.evaluation import Episodes, play_episodes, summarize
from dreamer_jax.run.identity import changed_code, check_maker, check_spaces, write_identity
from dreamer_jax.run.memory import check_host_memory
from dreamer_jax.run.processes import current as current_processes
from dreamer_jax.run.processes import gathered, joined, own_members
from dreamer_jax.run.programs import Programs
from dreamer_jax.run.reporter import Reporter
from dreamer_jax.run.scratch import Scratch
from dreamer_jax.run.setup import MakeEnv, RunSetup, about_wrappers, build, describe, prepared
from dreamer_jax.run.signals import Stopped, StopSignals
from dreamer_jax.run.workdir import WorkDir
from dreamer_jax.seeding import ENV_STREAM, REPORT_KEY, member_keys, video_generator
from dreamer_jax.types import Batch, Params, PolicyCarry, TrainState

USAGE_ERROR = f"{UsageError.__module__}.{UsageError.__qualname__}: "  # in a traceback


def train(config: ConfigDict, workdir: str | Path, make_env: MakeEnv | None = None) -> dict:
    """Train all members of a config; resume from the last checkpoint in `workdir` if there is one.

    On SIGTERM or SIGINT (Ctrl-C) it saves a checkpoint and returns early.

    Args:
        config: see `config/keys.py`; a dict of some keys is completed by the defaults.
        workdir: the run's work directory.
        make_env: `seed -> gymnasium.Env`, used instead of `config.task`.

    Returns:
        `finished`, `env_step`, `update`, and `members`: a record per member with its final
        evaluation; None if the run has not finished.

    Raises:
        UsageError: the config is invalid, does not fit the environment, or differs from the one
            in the work directory, or another process uses that directory. Nothing was changed.
        OSError: the disk is full; the last checkpoint is intact.
        TooManyFaults: environments failed more often than `config.env.max_faults` allows.
        ProcessFailed: another of the processes that share the run, which `jax.distributed` has
            connected, has failed.
    """
    work = WorkDir(workdir)
    config, processes = prepared(config), current_processes()
    with contextlib.ExitStack() as run:
        run.enter_context(processes.failing_together())
        note = check_maker(work.environment, config.task, make_env)
        setup = build(config, make_env, processes=processes)
        config = setup.config
        check_spaces(work.environment, setup.identity)
        if processes.first:
            run.enter_context(work.claim(config))
            write_identity(work.environment, setup.identity)
        summary = _agreed_summary(setup, work)
        if summary is not None and summary["env_step"] >= config.steps:
            return summary
        members = sweep.members(config)
        seeds, settings = [m.seed for m in members], [m.setting for m in members]
        live = None if processes.first else False
        display = Progress(config.steps, seeds, live, settings=settings)
        with StopSignals() as stop, display as progress:
            for line in (note, str(setup.identity), describe(setup, work), about_wrappers(setup)):
                if line:
                    progress.print(line)
            kept = work.programs if setup.agent.backend.keep_programs else None
            programs = Programs(kept, setup.placement.devices, progress.print)
            setup = dataclasses.replace(
                setup,
                fns=programs.keep(setup.fns),
                device_loop=setup.device_loop and setup.device_loop.keep(programs),
            )
            with contextlib.ExitStack() as closing:
                return make_trainer(setup, work, progress, stop, closing, programs).run()


def _agreed_summary(setup: RunSetup, work: WorkDir) -> dict | None:
    """Return the summary of a finished run, as the first process reads it.

    Raises:
        UsageError: the processes were given different configs.
    """
    processes, text = setup.processes, config_lib.to_json(setup.config)
    said = processes.exchange((text, work.read_summary() if processes.first else None))
    for index, (given, _) in enumerate(said):
        if given != said[0][0]:
            first, other = (dict(config_lib.flatten(json.loads(t))) for t in (said[0][0], given))
            lines = [f"  {k}: {v!r} -> {other[k]!r}" for k, v in first.items() if v != other[k]]
            raise UsageError(
                f"process {index} was given another config than process 0 (0 -> {index}):\n"
                + "\n".join(lines)
            )
    return said[0][1]


def make_trainer(setup: RunSetup, *args) -> "Trainer":
    """Return the trainer of the loop that the config names."""
    if setup.device_loop is None:
        return Trainer(setup, *args)
    from dreamer_jax.run.device_trainer import DeviceTrainer  # which extends the class below

    return DeviceTrainer(setup, *args)


class Trainer:
    """A run in progress, whose environments are stepped by this process.

    `DeviceTrainer` replaces the methods about environments, replay and updates.

    Args:
        setup: the parts of the run that have no state.
        work: its work directory, claimed.
        progress: shows messages and progress.
        stop: tells when to stop early.
        closing: receives the callbacks that release processes, threads and files.
        programs: those of the setup's functions, whose identities checkpoints note; None for none.
    """

    def __init__(
        self,
        setup: RunSetup,
        work: WorkDir,
        progress: Progress,
        stop: StopSignals,
        closing: contextlib.ExitStack,
        programs: Programs | None = None,
    ):
        self._programs = programs
        self._setup, self._config, self._work = setup, setup.config, work
        self._progress, self._stop = progress, stop
        keep, keep_every = self._config.checkpoint_keep, self._config.checkpoint_keep_every
        self._processes = setup.processes
        checkpoints = Checkpoints(work.checkpoints, keep, keep_every, setup.processes)
        closing.callback(checkpoints.close)
        checkpoints.check_left()  # before a replay is opened that would be emptied without one
        self._scratch: Scratch | None = None
        self._refill = False  # the replay, whose records are lost
        self._replay = self._open_replay(bool(checkpoints.steps()), closing)
        self._saver = Saver(
            checkpoints,
            self._replay,
            margin=schedule.replay_margin(self._config),
            minutes=self._config.checkpoint_minutes,
            warn=progress.print,
            members=setup.numbers,
            refill=self._refill,
        )
        self._reporter = Reporter(
            self._config, work, progress, setup.identity.name, setup.processes
        )
        closing.callback(self._reporter.close)
        self._limit = FaultLimit(self._config.env.max_faults, log=lambda row, text: None)
        self._open_envs(closing)
        self._state: TrainState | None = None
        self._carry: PolicyCarry | None = None
        self._env_step = self._update = 0
        self._due: list[str] = []  # work still to do at this env step, in order
        self._empty = np.zeros(len(setup.seeds), bool)  # members with nothing to learn from
        self._said_short = False  # that some episodes are too short
        self._summary: list[dict] | None = None  # of the final evaluation

    def _open_replay(self, is_resumed: bool, closing: contextlib.ExitStack) -> Replay:
        """Open the replay, for a run that has checkpoints or for a new one."""
        check_host_memory(self._setup)
        if self._config.replay.scratch is not None:
            self._open_scratch(resumed=is_resumed)
        elif is_resumed:
            self._work.check_replay(self._config, self._setup.numbers)
        replay = self._setup.make_replay(self._work)
        closing.callback(replay.close)
        return replay

    def _open_envs(self, closing: contextlib.ExitStack) -> None:
        """Make the environments, and what moves data between them, the replay and the device."""
        setup, workers = self._setup, self._config.env.workers
        on_fault = self._on_fault("environment", self._config.env.num_envs)
        vector = setup.make_vector(ENV_STREAM, self._config.env.num_envs, on_fault, workers=workers)
        closing.callback(vector.close)
        self._driver = Driver(vector, self._replay, setup.seeds, setup.obs_keys)
        self._prefetch = Prefetcher(self._replay, setup.placement.by_sequence)
        closing.callback(self._prefetch.close)

    def run(self) -> dict:
        """Train until the run ends or a signal stops it; return the result of `train`."""
        self._restore()
        finished = False
        try:
            if self._refill:
                self._refill_replay()
            self._do_due_work()
            while self._env_step < self._config.steps:
                self._check_stop()
                self._step()
                self._do_due_work()
            finished = True
        except Stopped:
            if not self._refill:  # else a checkpoint would need the lost records
                self._save(wait=True)
            self._progress.print(f"stopped at env step {self._env_step}; it can be resumed")
        except OSError as error:
            if error.errno not in DISK_FULL:
                raise
            saved = "no checkpoint yet" if self._saver.step is None else self._saver.step
            message = f"{error.strerror}; stopped at env step {self._env_step}, saved: {saved}"
            raise OSError(error.errno, message, error.filename) from error
        result = {"finished": finished, "env_step": self._env_step, "update": self._update}
        result["members"] = joined(self._processes.exchange(self._summary)) if finished else None
        if finished and self._processes.first:
            self._work.write_summary(result)
        return result

    def _check_stop(self) -> None:
        """Raise Stopped if a signal has arrived in any process."""
        if self._processes.any(self._stop.requested):
            raise Stopped

    def begin_with(self, params: Mapping[str, Params], slow_critic: Params) -> None:
        """Save a first checkpoint in which every member has these parameters of one member.

        Args:
            params: by group; the other groups keep their initial parameters.
            slow_critic: empty for a copy of the critic.
        """
        self._restore()
        count = len(self._setup.seeds)
        stacked = jax.tree.map(
            lambda x: np.broadcast_to(x, (count, *x.shape)),
            {"params": params, "slow_critic": slow_critic or params.get("critic", {})},
        )
        stacked = self._setup.placement.put(stacked)
        self._state = self._state.replace(
            params={**self._state.params, **stacked["params"]}, slow_critic=stacked["slow_critic"]
        )
        self._save(wait=True)

    def _step(self) -> None:
        """Take one step in every environment, and make the updates that are due."""
        config, updates = self._config, schedule.updates_due(self._config, self._env_step)
        self._update_until(updates - 1)  # the last one overlaps with the environments' step
        obs, is_first = self._driver.reset_finished()
        if self._env_step < config.prefill:
            actions = self._driver.random_actions(self._env_step)
        else:
            self._carry, policy_actions = self._act(obs, is_first)
            if self._update < updates:
                self._update_members()  # dispatched behind the policy: runs while environments step
            actions = to_env_actions(np.asarray(policy_actions), self._setup.action)
        failed = self._driver.step(actions)  # and add the transitions to the replay
        if failed.any():
            self._close_episodes(failed)
        self._env_step += config.env.num_envs
        self._due = schedule.work_due(config, self._env_step)

    def _open_scratch(self, *, resumed: bool) -> None:
        """Prepare the replay's directory, and decide whether the replay must be refilled."""
        self._scratch = Scratch(self._config, self._work, self._setup.numbers)
        layout, say = self._setup.replay_layout(), self._progress.print
        refill = self._scratch.open(layout, resumed=resumed, say=say)
        self._refill = self._processes.any(refill)
        if self._refill:
            self._scratch.drop_copy()

    def _refill_replay(self) -> None:
        """Take steps that do not count, in place of the records that are lost."""
        for _ in range(-(-self._config.prefill // self._config.env.num_envs)):
            self._check_stop()
            obs, is_first = self._driver.reset_finished()
            self._carry, actions = self._act(obs, is_first)
            failed = self._driver.step(to_env_actions(np.asarray(actions), self._setup.action))
            if failed.any():
                self._close_episodes(failed)
            self._replay.pin()  # no checkpoint needs these records yet
        self._refill = False
        self._save(wait=True)

    def _act(
        self, obs: dict[str, np.ndarray], is_first: np.ndarray
    ) -> tuple[PolicyCarry, jax.Array]:
        fns, state = self._setup.fns, self._state
        inputs = (self._carry, *self._setup.placement.put((obs, is_first)))
        if schedule.explores(self._config, self._env_step):
            return fns.explore_step(state.params, *inputs, state.update)
        return fns.policy_step(state.params, *inputs)

    def _update_until(self, count: int) -> None:
        """Make updates until there are `count` in total."""
        while self._update < count:
            self._check_stop()
            self._update_members()

    def _update_members(self) -> None:
        """Update all members from the next batch."""
        if not self._update and not self._processes.any(self._replay.sampleable.any()):
            raise self._nothing_to_learn()
        batch = self._prefetch.next()
        empty = self._prefetch.empty
        # The update skips these members, since their rewards are not a number. That must not
        # freeze them, so they do not count as diverging; copied, because the state is donated.
        before = jnp.copy(self._state.nonfinite) if empty.any() else None
        self._state, metrics = self._setup.fns.train_step(self._state, batch)
        if before is not None:
            nonfinite = jnp.where(empty, before, self._state.nonfinite)
            self._state = self._state.replace(nonfinite=self._setup.placement.put(nonfinite))
        self._report_empty(empty)
        self._reporter.add(metrics)
        self._update += 1

    def _nothing_to_learn(self) -> UsageError:
        return UsageError(
            f"after a prefill of {self._config.prefill} steps the replay has no sequence of "
            f"config.length = {self._config.length} steps for any member; if episodes are "
            "shorter than that use config.replay.sampling = 'time', else a longer config.prefill"
        )

    def _report_empty(self, empty: np.ndarray) -> None:
        """Say which members begin to have nothing to learn from."""
        for member in np.flatnonzero(empty & ~self._empty):
            number, seed = self._setup.numbers[member], self._setup.seeds[member]
            self._progress.print(
                f"member {number} (seed {seed}) has no sequence of config.length = "
                f"{self._config.length} steps in its replay, so its updates are skipped until it "
                "has; config.replay.sampling = 'time' draws across episodes"
            )
        self._empty = empty

    def _do_due_work(self) -> None:
        """Do the work that is due at this env step; if interrupted, a resumed run does the rest."""
        updates = schedule.updates_due(self._config, self._env_step)
        work = {
            "log": self._log,
            "updates": lambda: self._update_until(updates),
            "evaluation": self._evaluate,
            "pictures": self._draw,
        }
        while self._due and self._due[0] != "checkpoint":
            work[self._due[0]]()
            self._due.pop(0)  # not before: an interrupted run has to do it again
        if self._due or self._processes.any(self._saver.due()):
            self._due = []
            self._save(wait=self._env_step >= self._config.steps)
        self._saver.collect()

    def _log(self) -> None:
        frozen = is_frozen(self._state, self._config.max_nonfinite)
        skipped, frozen = jax.device_get((self._state.skipped, frozen))
        episodes = self._pop_episodes()
        self._reporter.write(
            self._env_step, self._update, episodes, skipped, frozen, self._diagnose()
        )

    def _diagnose(self) -> list[dict[str, float]]:
        """Return diagnostics of every member's next batch; none before the first update."""
        if not self._update:
            return [{} for _ in self._setup.seeds]
        metrics = jax.device_get(self._report(self._peek_batch()).metrics)
        return [
            {name: float(values[member]) for name, values in metrics.items()}
            for member in range(len(self._setup.seeds))
        ]

    def _report(self, batch: Batch) -> Report:
        """Return what the members predict of a batch."""
        keys = member_keys(self._setup.seeds, REPORT_KEY)
        return self._setup.fns.report(self._state, batch, keys)

    def _pop_episodes(self) -> list[dict]:
        """Return statistics of each member's episodes since the last call."""
        if self._replay.never_drawn:
            self._say_short()
        return self._driver.stats.pop()

    def _say_short(self) -> None:
        """Say, once, that some episodes are too short to be drawn from."""
        if self._said_short:
            return
        self._said_short = True
        self._progress.print(
            f"some episodes are shorter than config.length = {self._config.length} records, and "
            f"are never drawn from: config.replay.sampling = {self._config.replay.sampling!r} "
            f"draws from episodes of at least that length, 'time' from all"
        )

    def _evaluate(self) -> None:
        episodes, records = self._config.eval_episodes, [{} for _ in self._setup.seeds]
        if episodes:
            records = summarize(self._setup, self._play(episodes))
            if any("eval_cut" in record for record in records):
                self._progress.print(
                    f"evaluation episodes were cut after config.eval_steps = "
                    f"{self._config.eval_steps} steps"
                )
            self._reporter.write_evaluation(self._env_step, self._update, records)
        if self._env_step >= self._config.steps:
            self._summary = records

    def _play(self, episodes: int) -> Episodes:
        """Play greedy episodes in environments that cannot affect those of training."""
        env, on_fault = self._config.env, self._on_fault("evaluation environment", episodes)
        play = partial(
            play_episodes,
            self._setup,
            self._state.params,
            episodes,
            on_fault=on_fault,
            check=self._stop_if_asked,
        )
        workers = env.workers if env.eval_workers is None else env.eval_workers
        if workers or env.eval_workers == 0 or not self._setup.identity.is_foreign:
            return play(workers=workers)
        try:
            # Closing an environment may end what others in its process need.
            return play(workers=1)
        except (pickle.PicklingError, TypeError) as error:
            self._progress.print(
                f"evaluating in the process that trains, because the environment cannot be sent to "
                f"another ({error})"
            )
            return play()

    def _stop_if_asked(self) -> None:
        """Raise Stopped, here and in the other processes, which may be at another episode."""
        if self._stop.requested:
            self._processes.stop()

    def _draw(self) -> None:
        """Draw the curves so far, and open-loop videos; no failure to do so stops a run."""
        try:
            self._reporter.draw_curves()
            if self._update and schedule.video_length(self._config) > self._config.video_context:
                batch = self._video_batch()
                seen = ~np.isnan(jax.device_get(batch.reward)).all((1, 2))
                self._draw_open_loop(jax.device_get(self._report(batch)), np.flatnonzero(seen))
        except Exception as error:
            reason = (
                str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
            )
            step = self._env_step
            self._progress.print(f"no picture at env step {step}: {reason}; training continues")

    def _draw_open_loop(self, report: Report, members: np.ndarray) -> None:
        """Write the open-loop errors of some members, and a GIF of every image entry."""
        folder, context = self._work.videos, self._config.video_context
        for member in members:
            number = self._setup.numbers[member]
            one = jax.tree.map(lambda x, member=member: x[member], report)
            write_errors(folder, self._env_step, number, one.error, context)
            for key, film in one.films.items():
                path = open_loop_path(folder, key, self._env_step, number)
                open_loop_gif(
                    film.truth,
                    film.prediction,
                    path,
                    context=context,
                    imagined=film.imagined,
                    is_first=one.is_first,
                )

    def _peek_batch(self) -> Batch:
        """Return the batch of the next update, which is in flight.

        Before the first update none is, and drawing one only for this would change the updates that
        follow.
        """
        return self._prefetch.peek()

    def _video_batch(self) -> Batch:
        """Return the sequences of videos, at most SHOWN per member.

        Of CANDIDATES windows of the replay's records they are those that a new episode interrupts
        latest or never. Members without a window get rewards that are not a number.
        """
        length, seeds = schedule.video_length(self._config), self._setup.seeds
        generators = [video_generator(seed, self._env_step) for seed in seeds]
        drawn = self._replay.draw_windows(generators, CANDIDATES, length)
        flags = self._replay.gather(drawn, length, ("is_first", "reward"))
        chosen = least_interrupted(flags["is_first"])
        env, start = (np.take_along_axis(x, chosen, 1) for x in (drawn.env, drawn.start))
        return to_batch(self._replay.gather(Indices(env, start), length))

    def _on_fault(self, name: str, num_envs: int) -> OnFault:
        """Return the handler of faults in M * num_envs environments called `name`."""
        # A strong reference would be a cycle that keeps device arrays until a garbage collection.
        trainer = weakref.proxy(self)

        def on_fault(row: int, text: str) -> None:
            *_, reason = text.strip().splitlines() or [""]
            if reason.startswith(USAGE_ERROR):  # another environment would fail in the same way
                raise UsageError(reason.removeprefix(USAGE_ERROR))
            member, env = divmod(row, num_envs)
            trainer._reporter.fault(trainer._env_step, member, f"{name} {env}", text)
            trainer._limit(row, text)

        return on_fault

    def _close_episodes(self, mask: np.ndarray) -> None:
        """Truncate the open episodes of some environments [M, E] in the replay."""
        self._prefetch.settle()  # the batch in flight may read the records that change
        self._replay.close_open(mask)

    def _save(self, *, wait: bool) -> None:
        """Start saving the state of the run; `checkpoint` describes it."""
        states = {
            **self._loop_records(),  # first: environments may fail while they are saved
            "env_code": [self._setup.env_code for _ in self._setup.seeds],
            "report": self._reporter.state(),
            "summary": self._summary or [None] * len(self._setup.seeds),
        }
        rows = zip(*states.values(), strict=True)
        own = [dict(zip(states, records, strict=True)) for records in rows]
        host = {
            "env_step": self._env_step,
            "update": self._update,
            "due": list(self._due),
            "log": self._reporter.log_position(),
            "programs": self._processes.exchange(self._programs.state() if self._programs else {}),
            "members": joined(self._processes.exchange(own)),
        }
        arrays = gathered(self._arrays(), self._setup.placement, self._processes)
        self._saver.save(arrays, host)
        self._saver.collect(wait=wait)
        if self._scratch is not None and wait:
            self._scratch.keep()

    def _arrays(self) -> dict:
        """Return the device arrays of a checkpoint."""
        return {"state": self._state, "carry": self._carry}

    def _loop_records(self) -> dict[str, list]:
        """Return M records each of the environments, the replay and the batch in flight."""
        driver = self._driver.state()
        return {
            "driver": driver,
            "replay": self._replay.state(),
            "prefetch": self._prefetch.state(),
        }

    def _restore(self) -> None:
        """Resume from the newest intact checkpoint, or start afresh."""
        began = time.monotonic()
        saved = self._saver.restore(self._setup.saved_shapes())
        if self._scratch is None:
            shutil.rmtree(self._work.scratch, ignore_errors=True)  # out of date from now on
        if saved is None:
            self._reporter.restore(None, None, 0, 0)
            self._set_arrays(self._setup.init_arrays())
            return
        arrays, host = saved
        arrays = own_members(arrays, self._setup.placement, self._processes)
        members = [host["members"][number] for number in self._setup.numbers]
        states = {name: [member[name] for member in members] for name in members[0]}
        changes = [changed_code(member.get("env_code"), self._setup.env_code) for member in members]
        self._set_arrays(arrays)
        self._env_step, self._update, self._due = host["env_step"], host["update"], host["due"]
        is_end = self._env_step >= self._config.steps  # `steps` may have changed
        self._summary = states["summary"] if is_end and None not in states["summary"] else None
        if is_end and self._summary is None and not self._due:
            self._due = schedule.final_work(self._config, self._env_step)
        if self._programs is not None:
            notes = host.get("programs", [{}])  # those of each process
            self._programs.restore(notes[self._processes.index % len(notes)])
        restored = self._restore_loop(states, [bool(change) for change in changes])
        self._reporter.restore(states["report"], host["log"], self._env_step, self._update)
        self._progress.print(
            f"resuming at env step {self._env_step}, update {self._update}, restored in "
            f"{time.monotonic() - began:.1f} s"
        )
        for change in dict.fromkeys(filter(None, changes)):
            self._progress.print(change)
        if not restored.all():
            self._progress.print(
                f"{int((~restored).sum())} of {restored.size} environments could not be restored; "
                "their open episodes are closed as truncated, and new ones begin"
            )

    def _set_arrays(self, arrays: dict) -> None:
        """Take over the device arrays of a checkpoint."""
        self._state, self._carry = arrays["state"], arrays["carry"]

    def _restore_loop(self, states: Mapping[str, list], changed: Sequence[bool]) -> np.ndarray:
        """Return environments and replay to their `_loop_records`.

        Args:
            states: the records by name.
            changed: [M], whether the code of a member's environments has changed since.

        Returns:
            [M, E] bool, the environments that were restored. The open episodes of the others are
            closed.
        """
        drivers = [
            without_env_states(state) if change or self._refill else state
            for state, change in zip(states["driver"], changed, strict=True)
        ]
        if not self._refill:
            self._prefetch.restore(states["prefetch"])
        restored = self._driver.restore(drivers)
        self._close_episodes(~restored)
        return restored
