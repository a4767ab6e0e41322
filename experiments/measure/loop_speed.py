"""Measure environment steps and updates per second in the host's loop and in that of the device.

  python experiments/measure/loop_speed.py --config=configs/catch.py --json=speed.json

Every number of members trains in both loops, in turns, `--rounds` times. A run is the config's own
but for a short prefill and without evaluations, pictures and checkpoints. Rates are those of log
lines, of all members together, after the first lines, whose time includes compilation.
"""

import json
import statistics
import sys
import tempfile
from argparse import Namespace
from pathlib import Path

from ml_collections import ConfigDict

from dreamer_jax import train
from dreamer_jax.benchmark.suite import describe
from dreamer_jax.commands.flags import Command, Flags, whole_number, whole_numbers
from dreamer_jax.commands.main import run
from dreamer_jax.commands.tables import Column, format_table
from dreamer_jax.config.sweep import with_seeds
from dreamer_jax.report.metrics_log import read_metrics
from dreamer_jax.run.setup import build
from dreamer_jax.run.workdir import WorkDir
from dreamer_jax.runtime import prepare

WARMUP = 2  # log lines with updates before the measurement, which compile
COLUMNS = (
    Column("members", "members"),
    Column("loop", "loop"),
    Column("env steps/s", "env_steps_per_s", 0),
    Column("updates/s", "updates_per_s", 1),
)


def add_flags(flags: Flags) -> None:
    flags.add_config()
    add = flags.add_argument
    add("--members", type=whole_numbers(1), default=[1, 4, 16], help="numbers of members; 1,4,16")
    add("--updates", type=whole_number(1), default=20, help="updates in a log line; 20")
    add("--lines", type=whole_number(1), default=3, help="measured log lines of a run; 3")
    add("--rounds", type=whole_number(1), default=2, help="runs of each kind; 2")
    add("--json", required=True, help="file for the rates")


def main(args: Namespace) -> None:
    """Train in turns, and write the rates."""
    prepare()
    rows = {}
    for _ in range(args.rounds):
        for members in args.members:
            for loop in ("host", "device"):
                config = shorten(args.config, members, loop, args.updates, args.lines)
                about = describe(build(config), args.config_name) | {"loop": loop}
                row = rows.setdefault((members, loop), about | {"steps": [], "updates": []})
                lines = measured_lines(config)
                row["steps"] += [
                    members * line["frames_per_s"] / config.env.action_repeat for line in lines
                ]
                row["updates"] += [members * line["updates_per_s"] for line in lines]
                row["env_steps_per_s"] = statistics.median(row["steps"])
                row["updates_per_s"] = statistics.median(row["updates"])
                Path(args.json).write_text(json.dumps(list(rows.values()), indent=2) + "\n")
    print(format_table(COLUMNS, list(rows.values())))


def shorten(config: ConfigDict, members: int, loop: str, updates: int, lines: int) -> ConfigDict:
    """Return the config of a run that begins to update early, and does little else."""
    short = with_seeds(config, range(members))
    prefill = 4 * config.length * config.env.num_envs
    every = -(-updates // config.train_updates) * max(config.train_every, config.env.num_envs)
    steps = prefill + (WARMUP + lines + 1) * every
    changes = {
        "loop": loop,
        "steps": steps,
        "prefill": prefill,
        "pretrain": 1,
        "log_every": every,
        "eval_every": 0,
        "eval_episodes": 0,
        "video_every": 0,
        "checkpoint_every": 0,
        "checkpoint_minutes": 0.0,
        # The short prefill might not contain a complete episode.
        "replay": {"sampling": "time", "capacity": 2 * steps},
    }
    with short.ignore_type():
        short.update(changes)
    return short


def measured_lines(config: ConfigDict) -> list[dict]:
    """Train, and return the first member's log lines after those that compile."""
    with tempfile.TemporaryDirectory() as directory:
        work = WorkDir(Path(directory) / "run")
        train(config, work.path)
        lines = [row for row in read_metrics(work.metrics) if row["member"] == 0]
    learning = [row for row in lines if row["update"] and "updates_per_s" in row]
    return learning[WARMUP:]


if __name__ == "__main__":
    run(sys.argv[0], Command(__doc__, add_flags, main), sys.argv[1:])
