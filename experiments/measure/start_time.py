"""Time how long training takes to start, without compiled programs and with those of the first
start, and keep it as JSON.

python experiments/start_time.py --config=configs/catch.py --json=start.json

A start is from the command until the log has the losses of a first update. The replay is prefilled
with one sequence, so that hardly anything is waited for but imports, building and compiling.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from absl import flags

from dreamer_jax import cli
from dreamer_jax.benchmark.suite import describe
from dreamer_jax.report.metrics_log import read_metrics
from dreamer_jax.run.setup import build
from dreamer_jax.run.workdir import WorkDir

CONFIG = cli.config_flag()
JSON = flags.DEFINE_string("json", None, "File for the seconds.")
flags.mark_flags_as_required(["config", "json"])


def main() -> None:
    config = CONFIG.value
    # All members' rows are there at once, so that any will do.
    soon = {"prefill": config.length, "pretrain": 1, "log_every": 1, "eval_every": 0}
    arguments = [a for a in sys.argv[1:] if a.startswith("--config")]
    arguments += [f"--config.{key}={value}" for key, value in soon.items()]
    about = describe(build(config), flags.FLAGS["config"].config_filename)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        seconds = [start(arguments, root / name, root / "cache") for name in ("first", "second")]
    row = about | dict(zip(("first_s", "second_s"), seconds, strict=True))
    Path(JSON.value).write_text(json.dumps(row, indent=2) + "\n")
    print(f"first start {seconds[0]:.1f} s, second {seconds[1]:.1f} s")


def start(arguments: list[str], workdir: Path, cache: Path) -> float:
    """Seconds until a run has made its first update, which is then killed."""
    script = Path(__file__).with_name("train.py")
    environment = os.environ | {"XDG_CACHE_HOME": str(cache)}
    command = [sys.executable, str(script), *arguments, f"--workdir={workdir}"]
    began = time.perf_counter()
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        try:
            while not _has_learned(WorkDir(workdir).metrics):
                if process.poll() is not None:
                    raise cli.UsageError(f"training ended early, status {process.returncode}")
                time.sleep(0.05)
            return time.perf_counter() - began
        finally:
            process.kill()


def _has_learned(metrics: Path) -> bool:
    return metrics.exists() and any(row["update"] for row in read_metrics(metrics))


if __name__ == "__main__":
    cli.run(main)
