"""The whole training loop, timed from outside: how much of its time an update is running."""

import contextlib
import io
import statistics
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from dreamer_jax.benchmark.clock import DeviceClock, HostClock, summarize
from dreamer_jax.benchmark.timing import time_calls
from dreamer_jax.envs.vector import FaultTolerantVector, OnFault
from dreamer_jax.replay.prefetch import to_batch
from dreamer_jax.replay.replay import Replay
from dreamer_jax.report.progress import Progress
from dreamer_jax.run import setup as run_lib
from dreamer_jax.run.setup import MakeEnv, RunSetup
from dreamer_jax.run.signals import StopSignals
from dreamer_jax.run.trainer import Trainer
from dreamer_jax.run.workdir import WorkDir

WARMUP = 3  # updates that are made before anything counts, which compile
PREFILL_LENGTHS = 4  # sequence lengths of random actions per environment


class Enough(Exception):
    """The updates that were asked for have been made."""


class StopAfter(StopSignals):
    """Ends a training loop without a checkpoint once it has begun `updates` updates."""

    def __init__(self, updates: int):
        super().__init__()
        self._left = updates

    def count(self) -> None:
        """An update has begun."""
        self._left -= 1

    def check(self) -> None:
        super().check()
        if self._left <= 0:
            raise Enough


@dataclass(frozen=True)
class TimedParts(RunSetup):
    """RunSetup whose environments and replay note how long their calls take."""

    host: HostClock

    def make_vector(
        self, use: int, num_envs: int, on_fault: OnFault, *, workers: int = 0
    ) -> FaultTolerantVector:
        vector = super().make_vector(use, num_envs, on_fault, workers=workers)
        vector.step = self.host.time("environments", vector.step)
        return vector

    def make_replay(self, workdir: WorkDir) -> Replay:
        replay = super().make_replay(workdir)
        replay.gather = self.host.time("gather", replay.gather)
        return replay


def measure_loop(
    config: ConfigDict, *, updates: int, make_env: MakeEnv | None = None
) -> dict[str, float]:
    """Train in a temporary work directory and watch.

    It is the training loop as it is, with its environments, its replay on disk and its prefetch,
    but with a short prefill, and without evaluation, videos and checkpoints.

    Args:
        updates: that count, after a few which do not.

    Returns:
        What `summarize` returns, `copy_ms` of a batch to the device by itself, and the number of
        `updates`.

    Raises:
        TooManyFaults: environments failed.
    """
    device, host = DeviceClock(), HostClock()
    stop = StopAfter(WARMUP + updates)
    parts = _timed(run_lib.build(_shortened(config, updates), make_env), device, host, stop)
    try:
        with tempfile.TemporaryDirectory() as directory:
            _train(parts, WorkDir(Path(directory) / "run"), stop)
    finally:
        device.close()
    envs = len(parts.seeds) * parts.config.env.num_envs
    summary = summarize(device.intervals, host.calls, warmup=WARMUP, envs=envs)
    batch = to_batch(host.last["gather"])
    copies = time_calls(lambda: jax.device_put(batch), repeats=5)
    return summary | {"copy_ms": 1e3 * statistics.median(copies), "updates": updates}


def _train(parts: RunSetup, work: WorkDir, stop: StopAfter) -> None:
    progress = Progress(parts.config.steps, parts.seeds, enabled=False, stream=io.StringIO())
    with work.claim(parts.config), contextlib.ExitStack() as closing:
        trainer = Trainer(parts, work, progress, stop, closing)
        with contextlib.suppress(Enough):
            trainer.run()


def _shortened(config: ConfigDict, updates: int) -> ConfigDict:
    """The config of a run that gets to its updates at once and does little beside them."""
    short = config.copy_and_resolve_references()
    envs = config.env.num_envs
    prefill = PREFILL_LENGTHS * config.length * envs
    steps = prefill + (WARMUP + updates + 2) * max(config.train_every, envs)
    with short.ignore_type():
        short.update(
            {
                "steps": 2 * steps,  # ended before by StopAfter
                "prefill": prefill,
                "pretrain": 1,
                "eval_every": 0,
                "eval_episodes": 0,
                "video_every": 0,
                "checkpoint_every": 0,
                "checkpoint_minutes": 0.0,
                # After a short prefill no episode may have ended yet.
                "replay": {"sampling": "time", "capacity": steps, "slack": 2 * steps},
                "wandb": {"mode": "disabled"},
            }
        )
    return short


def _timed(parts: RunSetup, device: DeviceClock, host: HostClock, stop: StopAfter) -> TimedParts:
    # The loop adds metrics up in place, so what is waited for is a copy of one.
    copy = jax.jit(jnp.copy)

    def train_step(state, batch):
        stop.count()
        return parts.fns.train_step(state, batch)

    fns = parts.fns._replace(
        train_step=device.watch("update", train_step, lambda out: copy(out[1]["model_loss"])),
        explore_step=device.watch("policy", parts.fns.explore_step, lambda out: out[1]),
    )
    same = {field.name: getattr(parts, field.name) for field in fields(parts)}
    return TimedParts(**(same | {"fns": fns}), host=host)
