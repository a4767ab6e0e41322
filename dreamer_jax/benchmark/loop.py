"""A training run, recorded to see for how much of its time the device computes updates."""

import contextlib
import dataclasses
import functools
import io
import queue
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from dreamer_jax.agent.members import MemberFns
from dreamer_jax.errors import UsageError
from dreamer_jax.report.progress import Progress
from dreamer_jax.run.setup import MakeEnv, RunSetup, build
from dreamer_jax.run.signals import StopSignals
from dreamer_jax.run.trainer import Trainer
from dreamer_jax.run.workdir import WorkDir

WARMUP = 3  # updates before the measurement, which compile
PREFILL_LENGTHS = 4  # random actions per environment, in sequence lengths


class Interval(NamedTuple):
    """A computation on the device, with times in seconds of one clock."""

    name: str
    dispatched: float
    begun: float  # once dispatched and the computation before it has finished
    finished: float


class DeviceClock:
    """A recorder of when an asynchronous device computes; the host does not wait for it.

    A call of a compiled function returns before the device has computed. A thread waits for the
    results of every watched call, in the order of the calls, in which the device computes too, and
    records when each is ready.

        host     call 1   call 2                      call 3
        device   [  1  ............][  2  ........]   [  3  ....]

    A computation begins when it is dispatched or when the one before it finishes, whichever is
    later, so intervals never overlap. Time spent waiting for anything else, such as the copy of a
    batch, counts as the computation's own.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._calls: queue.SimpleQueue = queue.SimpleQueue()
        self.intervals: list[Interval] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._watch, name="device-clock", daemon=True)
        self._thread.start()

    def watch(
        self, name: str, fn: Callable[..., tuple], result: Callable[[tuple], Any]
    ) -> Callable[..., tuple]:
        """Return `fn` with its calls recorded as intervals `name`.

        Args:
            fn: dispatches a computation.
            result: selects the output to wait for; no later call may donate it.
        """

        @functools.wraps(fn)
        def call(*args):
            dispatched = self._clock()
            outputs = fn(*args)
            self._calls.put((name, dispatched, result(outputs)))
            return outputs

        return call

    def close(self) -> None:
        """Wait for all calls to finish; raise the error of a computation that failed."""
        self._calls.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _watch(self) -> None:
        finished = -float("inf")
        while (entry := self._calls.get()) is not None:
            name, dispatched, outputs = entry
            try:
                jax.block_until_ready(outputs)
            except Exception as error:
                self._error = error
                return
            begun, finished = max(dispatched, finished), self._clock()
            self.intervals.append(Interval(name, dispatched, begun, finished))


def measure_loop(
    config: ConfigDict, *, updates: int, make_env: MakeEnv | None = None
) -> dict[str, float]:
    """Train in a temporary work directory, and measure when the device computes.

    The run has the environments, replay and prefetch of the config, but a short prefill, and no
    evaluations, videos and checkpoints until it is stopped.

    Args:
        updates: number of updates that are measured, after a warm-up.
        make_env: `seed -> gymnasium.Env`, used instead of `config.task`.

    Returns:
        What `summarize` returns, and the number of `updates`.

    Raises:
        TooManyFaults: environments failed.
        UsageError: the config's loop is that of the device.
    """
    if config.loop != "host":
        raise UsageError(
            f"config.loop is {config.loop!r}; allowed here: 'host', whose calls are measured; the "
            "loop on the device is one program"
        )
    clock, stop = DeviceClock(), StopSignals()
    setup = build(_shorten(config, updates), make_env)
    setup = dataclasses.replace(setup, fns=_watch(setup.fns, clock, stop, WARMUP + updates))
    try:
        with tempfile.TemporaryDirectory() as directory:
            _train(setup, WorkDir(Path(directory) / "run"), stop)
    finally:
        clock.close()
    num_envs = len(setup.seeds) * setup.config.env.num_envs
    return summarize(clock.intervals, warmup=WARMUP, num_envs=num_envs) | {"updates": updates}


def summarize(intervals: Sequence[Interval], *, warmup: int, num_envs: int) -> dict[str, float]:
    """Summarize a run between the end of update number `warmup` and the end of the last one.

    Args:
        intervals: those of `update` and `policy`, in order.
        warmup: updates that do not count, at least 1.
        num_envs: N = M*E, environments per policy step.

    Returns:
        `wall_s`; the shares of it in which an update (`learner_share`) or the policy
        (`policy_share`) was running; `updates_per_s`; `env_steps_per_s` of all environments; the
        medians `policy_ms` of the policy on the device, `policy_latency_ms` from its call to its
        result, and `host_ms` from there to its next call, while the environments step.

    Raises:
        ValueError: there are at most `warmup` updates.
    """
    updates = [entry for entry in intervals if entry.name == "update"]
    if not 1 <= warmup < len(updates):
        raise ValueError(f"{len(updates)} updates are too few for a warm-up of {warmup}")
    start, stop = updates[warmup - 1].finished, updates[-1].finished
    inside = [entry for entry in intervals if start <= entry.begun and entry.finished <= stop]
    policies = [entry for entry in inside if entry.name == "policy"]
    wall = stop - start
    running = {"update": 0.0, "policy": 0.0}
    for entry in inside:
        running[entry.name] += entry.finished - entry.begun
    following = zip(policies[:-1], policies[1:], strict=True)
    return {
        "wall_s": wall,
        "learner_share": running["update"] / wall,
        "policy_share": running["policy"] / wall,
        "updates_per_s": (len(updates) - warmup) / wall,
        "env_steps_per_s": len(policies) * num_envs / wall,
        "policy_ms": _median_ms([entry.finished - entry.begun for entry in policies]),
        "policy_latency_ms": _median_ms([entry.finished - entry.dispatched for entry in policies]),
        "host_ms": _median_ms([after.dispatched - before.finished for before, after in following]),
    }


def _median_ms(seconds: Sequence[float]) -> float | None:
    return 1e3 * statistics.median(seconds) if seconds else None


def _watch(fns: MemberFns, clock: DeviceClock, stop: StopSignals, updates: int) -> MemberFns:
    """Return the functions with their calls recorded; they stop the run after `updates`."""
    # Metrics are summed in place, so the clock waits for a copy of one.
    copy, made = jax.jit(jnp.copy), 0

    def train_step(state, batch):
        nonlocal made
        made += 1
        stop.requested = made >= updates
        return fns.train_step(state, batch)

    return fns._replace(
        train_step=clock.watch("update", train_step, lambda out: copy(out[1]["model_loss"])),
        explore_step=clock.watch("policy", fns.explore_step, lambda out: out[1]),
    )


def _train(setup: RunSetup, work: WorkDir, stop: StopSignals) -> None:
    progress = Progress(setup.config.steps, setup.seeds, enabled=False, stream=io.StringIO())
    with work.claim(setup.config), contextlib.ExitStack() as closing:
        Trainer(setup, work, progress, stop, closing).run()


def _shorten(config: ConfigDict, updates: int) -> ConfigDict:
    """Return the config of a run that begins to update early, and does little else."""
    short = config.copy_and_resolve_references()
    num_envs = config.env.num_envs
    prefill = PREFILL_LENGTHS * config.length * num_envs
    steps = prefill + (WARMUP + updates + 2) * max(config.train_every, num_envs)
    with short.ignore_type():
        short.update(
            {
                "steps": 2 * steps,  # never reached
                "prefill": prefill,
                "pretrain": 1,
                "eval_every": 0,
                "eval_episodes": 0,
                "video_every": 0,
                "checkpoint_every": 0,
                "checkpoint_minutes": 0.0,
                # The short prefill might not contain a complete episode.
                "replay": {"sampling": "time", "capacity": steps, "slack": 2 * steps},
                "wandb": {"mode": "disabled"},
            }
        )
    return short
