"""Train a config with many log lines, and keep the memory of the process along the way as JSON.

python experiments/memory_growth.py --config=configs/catch.py --intervals=1000 --json=memory.json

The run is the config's own, with its evaluations, videos and checkpoints; only `log_every` is made
so small that there are as many log lines as asked for. Linux only. `anonymous_mib` is what the
process holds itself; `file_mib` are pages of files that it looks at, mostly its replay's.
"""

import json
import tempfile
import threading
from pathlib import Path

from absl import flags

from dreamer_jax import cli, train
from dreamer_jax.benchmark.suite import describe
from dreamer_jax.run.setup import build
from dreamer_jax.run.workdir import WorkDir

CONFIG = cli.config_flag()
INTERVALS = flags.DEFINE_integer("intervals", 1000, "Log lines per member.", lower_bound=20)
SAMPLES = flags.DEFINE_integer("samples", 20, "Samples of the memory.", lower_bound=2)
JSON = flags.DEFINE_string("json", None, "File for the samples.")
flags.mark_flags_as_required(["config", "json"])


def main() -> None:
    config = CONFIG.value
    if config.steps % INTERVALS.value:
        raise cli.UsageError(
            f"--intervals is {INTERVALS.value}; allowed: what divides config.steps = {config.steps}"
        )
    config.log_every = config.steps // INTERVALS.value
    parts = build(config)
    about = describe(parts, flags.FLAGS["config"].config_filename)
    with tempfile.TemporaryDirectory() as directory:
        work = WorkDir(Path(directory) / "run")
        watch = Watch(work.metrics, INTERVALS.value * len(parts.seeds) // SAMPLES.value)
        with watch:
            train(config, work.path)
    row = about | {"intervals": INTERVALS.value, "samples": watch.samples}
    Path(JSON.value).write_text(json.dumps(row, indent=2) + "\n")


class Watch(threading.Thread):
    """Samples the memory of this process whenever so many lines more are in a file."""

    def __init__(self, path: Path, lines: int):
        super().__init__(daemon=True)
        self.samples: list[dict] = []
        self._path, self._lines = path, lines
        self._ended = threading.Event()

    def __enter__(self) -> None:
        self.start()

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
            whole = new[: new.rfind(b"\n") + 1]
            offset += len(whole)
            lines = whole.splitlines()
            last = lines[-1] if lines else last
            before, seen = seen, seen + len(lines)
            if seen // self._lines > before // self._lines:
                self.samples.append({"env_step": json.loads(last)["env_step"], **memory()})


def memory() -> dict[str, float]:
    """MiB of this process in memory."""
    names = {"RssAnon": "anonymous_mib", "RssFile": "file_mib"}
    rows = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return {new: round(int(rows[old].split()[0]) / 1024, 1) for old, new in names.items()}


if __name__ == "__main__":
    cli.run(main)
