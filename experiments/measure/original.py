"""Time updates beside those of the original TensorFlow implementation, in turns, as JSON.

  python experiments/measure/original.py --original=dreamerv2/dreamerv2 --python=tf/bin/python \\
    --config=configs/catch.py --members=1,2 --json=original.json

`--original` is the directory `dreamerv2` of a checkout of github.com/danijar/dreamerv2, and
`--python` an interpreter that has its requirements (tensorflow 2.6.0, tensorflow_probability
0.14.0, gym 0.21). The original trains networks of the config's sizes on a batch of the config's
sizes, in float32, with its settings for Atari; its number of parameters must equal ours. Every
round times some updates of the original, then some of each of our programs, whose ratio is taken
within the round.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

import jax
from ml_collections import ConfigDict

from dreamer_jax.benchmark.device import milliseconds, time_calls
from dreamer_jax.benchmark.suite import describe
from dreamer_jax.benchmark.update import compile_update, make_batch, repeat_update
from dreamer_jax.commands.flags import Command, Flags, whole_number, whole_numbers
from dreamer_jax.commands.main import run
from dreamer_jax.commands.tables import Column, format_table
from dreamer_jax.config.sweep import with_seeds
from dreamer_jax.errors import UsageError
from dreamer_jax.run.setup import RunSetup, build
from dreamer_jax.runtime import prepare

COLUMNS = (
    Column("members", "members"),
    Column("ms", "ms_per_update", 1),
    Column("original ms", "original_ms", 1),
    Column("times as fast", "speedup", 2),
)


def add_flags(flags: Flags) -> None:
    flags.add_config()
    add = flags.add_argument
    add("--original", required=True, help="directory dreamerv2 of the original's checkout")
    add("--python", required=True, help="interpreter that has the original's requirements")
    add("--members", type=whole_numbers(1), default=[1], help="numbers of members; 1")
    add("--updates", type=whole_number(1), default=5, help="updates of the original in a round; 5")
    add("--rounds", type=whole_number(1), default=5, help="rounds; 5")
    add("--json", required=True, help="file for the times")


def main(args: Namespace) -> None:
    """Train both in turns, and write the times."""
    prepare()
    setups = [build(with_seeds(args.config, range(members))) for members in args.members]
    command = [args.python, str(Path(__file__).with_name("original_update.py")), args.original]
    command += [json.dumps(sizes(setups[0]))]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with (
        tempfile.TemporaryFile("w+") as messages,  # TensorFlow warns a lot
        subprocess.Popen(command, **pipes, stderr=messages, text=True) as tf,
    ):

        def answer() -> str:
            line = tf.stdout.readline()
            if not line:
                messages.seek(0)
                last = messages.read().strip().rpartition("\n")[2]
                raise UsageError(f"the original ended early, status {tf.wait()}: {last}")
            return line

        theirs, ours = int(answer()), count_parameters(setups[0])
        if theirs != ours:
            raise UsageError(f"the original has {theirs} parameters and a member {ours}")
        updates = [
            repeat_update(setup, compile_update(setup)[0], make_batch(setup, synthetic=True))
            for setup in setups
        ]
        times: list[list[float]] = [[] for _ in setups]
        original: list[float] = []
        for _ in range(args.rounds):
            print(args.updates, file=tf.stdin, flush=True)
            original.append(statistics.median(json.loads(answer())))
            for seconds, update in zip(times, updates, strict=True):
                seconds += time_calls(update, repeats=1)
        tf.stdin.close()
    rows = []
    for members, setup, seconds in zip(args.members, setups, times, strict=True):
        ratios = [members * t / s for t, s in zip(original, seconds, strict=True)]
        rows.append(
            describe(setup, args.config_name)
            | milliseconds(seconds)
            | {
                "original_ms": 1e3 * statistics.median(original),
                "original_ms_all": [1e3 * t for t in original],
                "speedup": statistics.median(ratios),  # of members trained at the same time
                "speedups": ratios,
            }
        )
    Path(args.json).write_text(json.dumps(rows, indent=2) + "\n")
    print(format_table(COLUMNS, rows))


def sizes(setup: RunSetup) -> dict:
    """Return the original's settings for a config's networks, and the shapes of its batch."""
    config: ConfigDict = setup.config
    shapes = [shape for shape, _ in setup.agent.obs_shapes.values()]
    if len(shapes) != 1 or len(shapes[0]) != 3 or setup.action.shape:
        raise UsageError("the config must observe one image, and an action must be an index")
    settings = {
        "precision": 32,
        "imag_horizon": config.horizon,
        "rssm.stoch": config.rssm.stoch,
        "rssm.discrete": config.rssm.classes,
        "rssm.deter": config.rssm.deter,
        "rssm.hidden": config.rssm.hidden,
        "encoder.cnn_depth": config.cnn_depth,
        "decoder.cnn_depth": config.cnn_depth,
    }
    for head in ("reward_head", "discount_head", "actor", "critic"):
        settings |= {f"{head}.{key}": config[head][key] for key in ("layers", "units")}
    return {
        "settings": settings,
        "batch": config.batch,
        "length": config.length,
        "image": shapes[0],
        "actions": setup.action.size,
    }


def count_parameters(setup: RunSetup) -> int:
    """Return the number of one member's parameters, without those of the slow critic."""
    state = jax.eval_shape(setup.init_state)
    return sum(leaf.size for leaf in jax.tree.leaves(state.params)) // len(setup.seeds)


if __name__ == "__main__":
    run(sys.argv[0], Command(__doc__, add_flags, main), sys.argv[1:])
