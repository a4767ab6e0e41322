"""Measure what checkpoints cost a training run, and print it as JSON.

python experiments/checkpoint_cost.py --config=configs/atari.py:pong --config.seeds=5 \
    --config.batch=2 --config.length=10

Windows of updates with a save at their beginning alternate with windows without. The networks, the
replay and the environments are those of the config; a smaller batch makes updates shorter than
saves, and changes nothing about these.
"""

import json
import statistics
import tempfile
import time

import jax
from absl import flags

from dreamer_jax import cli
from dreamer_jax.envs.vector import FaultLimit
from dreamer_jax.replay.prefetch import Prefetcher
from dreamer_jax.run.checkpoint import Checkpoints, Saver
from dreamer_jax.run.driver import Driver
from dreamer_jax.run.schedule import replay_margin
from dreamer_jax.run.setup import build
from dreamer_jax.run.workdir import WorkDir
from dreamer_jax.seeding import ENV_STREAM

CONFIG = cli.config_flag()
PAIRS = flags.DEFINE_integer("pairs", 7, "Windows with, and without, a save.", lower_bound=2)
UPDATES = flags.DEFINE_integer("updates", 8, "Updates in a window.", lower_bound=1)
STEPS = flags.DEFINE_integer("steps", 2_000, "Env steps per member in front.", lower_bound=1)
flags.mark_flag_as_required("config")


def main() -> None:
    config = CONFIG.value
    with tempfile.TemporaryDirectory() as directory:
        print(json.dumps(measure(config, WorkDir(directory)), indent=2))


def measure(config, work: WorkDir) -> dict:
    """Seconds that a save takes, and that it adds to a run."""
    parts = build(config)
    replay = parts.make_replay(work)
    vector = parts.make_vector(ENV_STREAM, config.env.num_envs, FaultLimit(0, print))
    driver = Driver(vector, replay, parts.seeds, parts.obs_keys)
    prefetch = Prefetcher(replay, parts.placement.by_sequence)
    saver = Saver(
        Checkpoints(work.checkpoints, config.checkpoint_keep),
        replay,
        margin=replay_margin(config),
        minutes=0,
        warn=print,
    )
    state, carry = parts.init_state(), parts.init_policy()
    for step in range(STEPS.value):
        driver.reset_finished()
        driver.step(driver.random_actions(step))
    step = 0

    def window(save: bool) -> tuple[float, float, float]:
        """Seconds of the window, of the call that saves, and until the checkpoint is durable."""
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
        for _ in range(UPDATES.value):
            state, metrics = parts.fns.train_step(state, prefetch.next())
            jax.block_until_ready(metrics)
            saver.collect()
            if save and not durable and saver.step == step:
                durable = time.perf_counter() - began
        if save and not durable:
            raise cli.UsageError(f"--updates is {UPDATES.value}; a save takes longer than these")
        return time.perf_counter() - began, called, durable

    window(save=False)  # compiles
    window(save=True)
    pairs = [(window(save=False)[0], window(save=True)) for _ in range(PAIRS.value)]
    extra = [with_save[0] - without for without, with_save in pairs]
    for part in (prefetch, vector, saver, replay):
        part.close()
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
        "members": len(parts.seeds),
        "saved_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves((state, carry))),
        "updates_per_window": UPDATES.value,
        **{name: [round(value, 3) for value in values] for name, values in seconds.items()},
        "median_added_s": round(statistics.median(extra), 3),
        "share_of_ten_minutes": round(statistics.median(extra) / 600, 5),
    }


if __name__ == "__main__":
    cli.run(main)
