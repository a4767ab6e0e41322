"""Train world models on the recorded steps of a run, and measure their errors on other steps.

  python experiments/measure/world_model.py --run=runs/cartpole \\
    --config=configs/dmc_vision.py:cartpole_balance,small --updates=3000 --config.model_lr=1e-3

The run has two members or more. The world model of the config, whose sizes and rates are those to
try, is trained alone on the replay of member 0, on sequences drawn uniformly; its errors are those
on sequences of member 1. Both play the same task, and neither has seen the other's episodes. A
sequence is observed for `config.video_context` steps and then predicted with the recorded actions.
A line per measurement goes to standard output, as JSON: squared errors of the reward and of entries
of the observation, `seen` from the second observed step to the last, and `predicted` after that.
Those of images are summed over their values in [0, 1] and halved; others are means over elements.
"""

import json
import math
import sys
import time
from argparse import Namespace
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dreamer_jax.agent import agent as agent_lib
from dreamer_jax.agent.agent import Agent
from dreamer_jax.agent.report import SHOWN, report
from dreamer_jax.commands.flags import Command, Flags, whole_number
from dreamer_jax.commands.main import run
from dreamer_jax.config.sweep import with_seeds
from dreamer_jax.model.distributions import from_noise
from dreamer_jax.replay.copy import open_complete
from dreamer_jax.replay.prefetch import to_batch
from dreamer_jax.replay.ring import entry_name, member_directories
from dreamer_jax.run.setup import build
from dreamer_jax.run.workdir import WorkDir
from dreamer_jax.runtime import prepare
from dreamer_jax.types import Array, Batch, RSSMState, TrainState

BATCHES = 40  # of SHOWN sequences, in a measurement
PREDICTED = 15  # steps after the context, as many as are imagined


def add_flags(flags: Flags) -> None:
    flags.add_config()
    add = flags.add_argument
    add("--run", required=True, help="work directory of a run of this task, with 2 members or more")
    add("--updates", type=whole_number(1), default=3_000, help="updates; 3000")
    add("--every", type=whole_number(1), default=500, help="updates between measurements; 500")


def main(args: Namespace) -> None:
    """Train, and print the errors."""
    prepare()
    config = args.config
    setup = build(with_seeds(config, range(1)))
    agent, rng = setup.agent, np.random.default_rng(0)
    directories = member_directories(WorkDir(Path(args.run)).replay, range(2))
    learned, held_out = (Records(directory) for directory in directories)
    length = config.video_context + PREDICTED
    tests = [held_out.draw(rng, SHOWN, length) for _ in range(BATCHES)]

    def measure(state, batch):
        return report(agent, state, batch, jax.random.key(0)).error

    options = dict(agent.backend.compiler_options)
    update = jax.jit(partial(update_model, agent), donate_argnums=0, compiler_options=options)
    measure = jax.jit(measure, compiler_options=options)
    state = jax.tree.map(lambda x: x[0], setup.init_state())
    seconds = 0.0
    for number in range(1, args.updates + 1):
        batch = learned.draw(rng, config.batch, config.length)
        start = time.perf_counter()
        state, _, kl = jax.block_until_ready(update(state, batch))
        seconds += (time.perf_counter() - start) * (number > 1)  # the first compiles
        if number % args.every == 0:
            errors = [measure(state, test) for test in tests]
            row = {"updates": number, "kl": float(kl), "ms": 1e3 * seconds / (number - 1)}
            print(json.dumps(row | summary(errors, tests[0].obs, config.video_context)), flush=True)


def update_model(
    agent: Agent, state: TrainState, batch: Batch
) -> tuple[TrainState, RSSMState, Array]:
    """Update the world model alone. Return the state, the posteriors [B, T] and the KL loss."""
    key, noise_key = jax.random.split(state.key)
    start = agent.wm.rssm.initial(batch.reward.shape[:1])
    args = (agent, state, batch, start, noise_key, from_noise)
    state, posteriors, outcome = agent_lib.update_model(*args)
    return state.replace(key=key), posteriors, outcome.metrics["kl"]


class Records:
    """The recorded steps of one member, in the order of their making."""

    def __init__(self, directory: Path):
        member = open_complete(directory)
        self._stop = int(member.slots[0])  # of the first environment
        self._entries = {
            key: np.memmap(directory / entry_name(key), dtype, "r").reshape(-1, *shape)
            for key, (shape, dtype) in member.layout.entries.items()
        }

    def draw(self, rng: np.random.Generator, batch: int, length: int) -> Batch:
        """Return `batch` sequences, each equally likely, across the borders of episodes."""
        rows = rng.integers(self._stop - length, size=(batch, 1)) + np.arange(length)
        arrays = {key: entry[rows] for key, entry in self._entries.items()}
        arrays["is_first"][:, 0] = True
        return to_batch(arrays)


def summary(errors: list[dict], obs: Mapping[str, Any], context: int) -> dict[str, float]:
    """Return the mean errors while steps are observed, and after that."""
    row = {}
    for name in errors[0]:
        by_step = np.nanmean([error[name] for error in errors], 0)
        is_image = name in obs and obs[name].dtype == np.uint8
        scale = math.prod(obs[name].shape[2:]) / 2 if is_image else 1.0
        row[f"{name}_seen"] = scale * float(by_step[1:context].mean())
        row[f"{name}_predicted"] = scale * float(np.nanmean(by_step[context:]))
    return row


if __name__ == "__main__":
    run(sys.argv[0], Command(__doc__, add_flags, main), sys.argv[1:])
