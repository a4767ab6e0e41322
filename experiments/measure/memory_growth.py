"""Train with many log lines, and write samples of the process's memory as JSON.

  python experiments/measure/memory_growth.py --config=configs/catch.py --json=memory.json

The run is the config's own, with its evaluations, videos and checkpoints; only `log_every` is
reduced, to as many log lines as asked for. Linux only. `anonymous_mib` is memory that the process
allocated; `file_mib` are pages of files that it mapped, mostly the replay's.
"""

import json
import sys
import tempfile
import threading
from argparse import Namespace
from pathlib import Path

from dreamer_jax import train
from dreamer_jax.benchmark.suite import describe
from dreamer_jax.commands.flags import Command, Flags, whole_number
from dreamer_jax.commands.main import run
from dreamer_jax.errors import UsageError
from dreamer_jax.run.setup import build
from dreamer_jax.run.workdir import WorkDir
from dreamer_jax.runtime import prepare


def add_flags(flags: Flags) -> None:
    flags.add_config()
    flags.add_argument(
        "--intervals", type=whole_number(20), default=1000, help="log lines per member; 1000"
    )
    flags.add_argument("--samples", type=whole_number(2), default=20, help="memory samples; 20")
    flags.add_argument("--json", required=True, help="file for the samples")


def main(args: Namespace) -> None:
    """Train, and write the samples."""
    prepare()
    config, intervals = args.config, args.intervals
    if config.steps % intervals:
        raise UsageError(
            f"--intervals is {intervals}; allowed: a divisor of config.steps = {config.steps}"
        )
    config.log_every = config.steps // intervals
    setup = build(config)
    about = describe(setup, args.config_name)
    with tempfile.TemporaryDirectory() as directory:
        work = WorkDir(Path(directory) / "run")
        with Watch(work.metrics, intervals * len(setup.seeds) // args.samples) as watch:
            train(config, work.path)
    row = about | {"intervals": intervals, "samples": watch.samples}
    Path(args.json).write_text(json.dumps(row, indent=2) + "\n")


class Watch(threading.Thread):
    """Samples the memory of this process each time that a file has grown by so many lines."""

    def __init__(self, path: Path, lines: int):
        super().__init__(daemon=True)
        self.samples: list[dict] = []
        self._path, self._lines = path, lines
        self._ended = threading.Event()

    def __enter__(self) -> "Watch":
        self.start()
        return self

    def __exit__(self, *error) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        seen, offset, last = 0, 0, b"{}"
        while not self._ended.wait(0.2):
            if not self._path.exists():
                continue
            with self._path.open("rb") as file:
                file.seek(offset)
                new = file.read()
            complete = new[: new.rfind(b"\n") + 1]
            offset += len(complete)
            lines = complete.splitlines()
            last = lines[-1] if lines else last
            before, seen = seen, seen + len(lines)
            if seen // self._lines > before // self._lines:
                self.samples.append({"env_step": json.loads(last)["env_step"], **memory()})


def memory() -> dict[str, float]:
    """Return the resident memory of this process in MiB."""
    names = {"RssAnon": "anonymous_mib", "RssFile": "file_mib"}
    rows = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {new: round(int(rows[old].split()[0]) / 1024, 1) for old, new in names.items()}


if __name__ == "__main__":
    run(sys.argv[0], Command(__doc__, add_flags, main), sys.argv[1:])
