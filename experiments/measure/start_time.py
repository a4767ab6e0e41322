"""Time how long training takes to start, with and without compiled programs, as JSON.

  python experiments/measure/start_time.py --config=configs/catch.py --json=start.json

The first start compiles; the second finds the programs in the cache. A start lasts from the command
until the log has the losses of an update. The replay is prefilled with a single sequence, so nearly
all of it is imports, building and compiling.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from argparse import Namespace
from pathlib import Path

from dreamer_jax.benchmark.suite import describe
from dreamer_jax.commands.flags import Command, Flags
from dreamer_jax.commands.main import run
from dreamer_jax.errors import UsageError
from dreamer_jax.report.metrics_log import read_metrics
from dreamer_jax.run.setup import build
from dreamer_jax.run.workdir import WorkDir
from dreamer_jax.runtime import prepare


def add_flags(flags: Flags) -> None:
    flags.add_config()
    flags.add_argument("--json", required=True, help="file for the seconds")


def main(args: Namespace) -> None:
    """Start twice, and write the seconds."""
    prepare()
    config = args.config
    quick = {"prefill": config.length, "pretrain": 1, "log_every": 1, "eval_every": 0}
    arguments = [a for a in sys.argv[1:] if a.startswith("--config")]
    arguments += [f"--config.{key}={value}" for key, value in quick.items()]
    about = describe(build(config), args.config_name)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        seconds = [start(arguments, root / name, root / "cache") for name in ("first", "second")]
    row = about | dict(zip(("first_s", "second_s"), seconds, strict=True))
    Path(args.json).write_text(json.dumps(row, indent=2) + "\n")
    print(f"first start {seconds[0]:.1f} s, second {seconds[1]:.1f} s")


def start(arguments: list[str], workdir: Path, cache: Path) -> float:
    """Return the seconds until a run has made its first update; the run is then killed."""
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, "-m", "dreamer_jax", "train", *arguments, f"--workdir={workdir}"]
    began = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            while not has_learned(WorkDir(workdir).metrics):
                if process.poll() is not None:
                    raise UsageError(f"training ended early, status {process.returncode}")
                time.sleep(0.05)
            return time.perf_counter() - began
        finally:
            process.kill()


def has_learned(metrics: Path) -> bool:
    """Return whether the log has a line of an update. All members' lines come at once."""
    return metrics.exists() and any(row["update"] for row in read_metrics(metrics))


if __name__ == "__main__":
    run(sys.argv[0], Command(__doc__, add_flags, main), sys.argv[1:])
