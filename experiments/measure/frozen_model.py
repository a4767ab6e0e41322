"""Train an actor and a critic in a world model that stays as it is, and play their task.

  python experiments/measure/frozen_model.py --run=runs/cartpole \\
    --config=configs/dmc_proprio.py:cartpole_balance,small --config.actor_lr=6e-4

The world model is trained first, on sequences drawn uniformly from the replay of the run's first
members. It is then the same for every setting of the actor and the critic that is tried, which
learn from the same sequences. If they reach returns that the run does not, then the run is held
back by its world model, or because all three learn at once. A line per measurement goes to standard
output, as JSON: the returns of greedy episodes, and what the last update reported.
"""

import json
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path

import jax
import numpy as np
from world_model import Records, update_model

from dreamer_jax.agent import agent as agent_lib
from dreamer_jax.agent.agent import Agent
from dreamer_jax.behavior.base import PosteriorBatch
from dreamer_jax.commands.flags import Command, Flags, whole_number
from dreamer_jax.commands.main import run
from dreamer_jax.config.sweep import with_seeds
from dreamer_jax.model.distributions import from_noise
from dreamer_jax.model.world_model import prepare_action
from dreamer_jax.replay.ring import member_directories
from dreamer_jax.run.evaluation import play_episodes
from dreamer_jax.run.setup import build
from dreamer_jax.run.workdir import WorkDir
from dreamer_jax.runtime import prepare
from dreamer_jax.types import Array, Batch, TrainState

REPORTED = ("actor_entropy", "critic_target", "imagined_reward")


def add_flags(flags: Flags) -> None:
    flags.add_config()
    add, count = flags.add_argument, whole_number(1)
    add("--run", required=True, help="work directory of a run of this task")
    add("--members", type=count, default=1, help="members whose replay is read, from the first; 1")
    add("--model_updates", type=count, default=3_000, help="updates of the world model; 3000")
    add("--updates", type=count, default=2_500, help="updates of actor and critic after that; 2500")
    add("--every", type=count, default=500, help="updates between measurements; 500")
    add("--episodes", type=count, default=6, help="episodes in a measurement; 6")


def main(args: Namespace) -> None:
    """Train, play, and print what came of it."""
    prepare()
    config = args.config
    setup = build(with_seeds(config, range(1)))
    agent, rng = setup.agent, np.random.default_rng(0)
    directories = member_directories(WorkDir(Path(args.run)).replay, range(args.members))
    records = [Records(directory) for directory in directories]

    def draw() -> Batch:
        counts = np.bincount(rng.integers(len(records), size=config.batch), minlength=len(records))
        drawn = zip(records, counts, strict=True)
        parts = [record.draw(rng, n, config.length) for record, n in drawn if n]
        return jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)

    options = dict(agent.backend.compiler_options)
    jit = partial(jax.jit, donate_argnums=0, compiler_options=options)
    learn_model, learn_behavior = (jit(partial(f, agent)) for f in (update_model, update_behavior))
    state = jax.tree.map(lambda x: x[0], setup.init_state())
    for _ in range(args.model_updates):
        state, _, kl = learn_model(state, draw())
    print(json.dumps({"model_updates": args.model_updates, "kl": float(kl)}), flush=True)
    for number in range(1, args.updates + 1):
        state, metrics = learn_behavior(state, draw())
        if number % args.every == 0:
            params = jax.tree.map(lambda x: x[None], state.params)
            played = play_episodes(
                setup, params, args.episodes, on_fault=lambda row, text: sys.exit(text)
            )
            row = {"updates": number, "return": played.returns.mean(), "std": played.returns.std()}
            row |= {name: float(metrics[name]) for name in REPORTED}
            print(json.dumps(row), flush=True)


def update_behavior(
    agent: Agent, state: TrainState, batch: Batch
) -> tuple[TrainState, dict[str, Array]]:
    """Update actor and critic from the posteriors of a batch. Return the state and the metrics."""
    key, behavior_key = jax.random.split(state.key)
    _, posteriors, _ = update_model(agent, state, batch)
    action = prepare_action(batch.action, agent.wm.rssm.action_size, agent.wm.factors)
    replayed = PosteriorBatch(posteriors, action, batch.is_first, batch.is_terminal)
    args = (agent, state.replace(key=key), replayed, [behavior_key], from_noise)
    state, outcomes = agent_lib.update_behaviors(*args)
    metrics = outcomes["actor"].metrics | outcomes["critic"].metrics
    return state.replace(update=state.update + 1), metrics


if __name__ == "__main__":
    run(sys.argv[0], Command(__doc__, add_flags, main), sys.argv[1:])
