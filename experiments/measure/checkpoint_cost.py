"""Measure what checkpoints cost a training run, and print the result as JSON.

  python experiments/measure/checkpoint_cost.py --config=configs/atari.py:pong --config.seeds=5 \\
      --config.batch=2 --config.length=10

Windows of updates that begin with a save alternate with windows without one. Networks, replay and
environments are those of the config. A smaller batch makes updates shorter than saves, and does
not change what is saved.
"""

import json
import statistics
import sys
import tempfile
import time
from argparse import Namespace

import jax

from dreamer_jax.commands.flags import Command, Flags, whole_number
from dreamer_jax.commands.main import run
from dreamer_jax.envs.vector import FaultLimit
from dreamer_jax.errors import UsageError
from dreamer_jax.replay.prefetch import Prefetcher
from dreamer_jax.run.checkpoint import Checkpoints, Saver
from dreamer_jax.run.driver import Driver
from dreamer_jax.run.schedule import replay_margin
from dreamer_jax.run.setup import build
from dreamer_jax.run.workdir import WorkDir
from dreamer_jax.runtime import prepare
from dreamer_jax.seeding import ENV_STREAM


def add_flags(flags: Flags) -> None:
    flags.add_config()
    add = flags.add_argument
    add("--pairs", type=whole_number(2), default=7, help="windows with, and without, a save; 7")
    add("--updates", type=whole_number(1), default=8, help="updates in a window; 8")
    add("--steps", type=whole_number(1), default=2_000, help="env steps before them; 2000")


def main(args: Namespace) -> None:
    """Measure, and print the result."""
    prepare()
    with tempfile.TemporaryDirectory() as directory:
        print(json.dumps(measure(args, WorkDir(directory)), indent=2))


def measure(args: Namespace, work: WorkDir) -> dict:
    """Return the seconds that a save takes, and that it adds to a run."""
    config = args.config
    setup = build(config)
    replay = setup.make_replay(work)
    vector = setup.make_vector(ENV_STREAM, config.env.num_envs, FaultLimit(0, print))
    driver = Driver(vector, replay, setup.seeds, setup.obs_keys)
    prefetch = Prefetcher(replay, setup.placement.by_sequence)
    saver = Saver(
        Checkpoints(work.checkpoints, config.checkpoint_keep),
        replay,
        margin=replay_margin(config),
        minutes=0,
        warn=print,
    )
    state, carry = setup.init_state(), setup.init_policy()
    for step in range(args.steps):
        driver.reset_finished()
        driver.step(driver.random_actions(step))
    step = 0

    def window(save: bool) -> tuple[float, float, float]:
        """Return the seconds of the window, of the saving call, and until the save is durable."""
        nonlocal state, step
        began = time.perf_counter()
        called = durable = 0.0
        if save:
            step += 1
            states = zip(replay.state(), driver.state(), strict=True)
            members = [{"replay": cursors, "driver": rest} for cursors, rest in states]
            host = {"env_step": step, "update": step, "due": [], "members": members}
            saver.save({"state": state, "carry": carry}, host)
            called = time.perf_counter() - began
        for _ in range(args.updates):
            state, metrics = setup.fns.train_step(state, prefetch.next())
            jax.block_until_ready(metrics)
            saver.collect()
            if save and not durable and saver.step == step:
                durable = time.perf_counter() - began
        if save and not durable:
            raise UsageError(f"--updates is {args.updates}; allowed: more, as a save takes longer")
        return time.perf_counter() - began, called, durable

    window(save=False)  # compiles
    window(save=True)
    pairs = [(window(save=False)[0], window(save=True)) for _ in range(args.pairs)]
    extra = [with_save[0] - without for without, with_save in pairs]
    for resource in (prefetch, vector, saver, replay):
        resource.close()
    seconds = {
        "window_without_save_s": [without for without, _ in pairs],
        "window_with_save_s": [with_save[0] for _, with_save in pairs],
        "blocking_call_s": [with_save[1] for _, with_save in pairs],
        "until_durable_s": [with_save[2] for _, with_save in pairs],
        "added_s": extra,
    }
    return {
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
        "members": len(setup.seeds),
        "saved_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves((state, carry))),
        "updates_per_window": args.updates,
        **{name: [round(value, 3) for value in values] for name, values in seconds.items()},
        "median_added_s": round(statistics.median(extra), 3),
        "share_of_ten_minutes": round(statistics.median(extra) / 600, 5),
    }


if __name__ == "__main__":
    run(sys.argv[0], Command(__doc__, add_flags, main), sys.argv[1:])
