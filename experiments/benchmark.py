"""Time updates of a config and print a table: milliseconds, FLOP/s, memory.

python experiments/benchmark.py --config=configs/atari.py:pong --members=1,5,10 [--parts] [--loop]
python experiments/benchmark.py --config=configs/atari.py:pong --conv=winograd,lax --json=out.json
python experiments/benchmark.py --config=configs/atari.py:pong --plan

docs/performance.md says what is measured and counted.
"""

import json
import sys
from collections.abc import Iterable
from pathlib import Path

import jax
from absl import flags

from dreamer_jax import cli
from dreamer_jax.benchmark.suite import benchmark, plan, variants
from dreamer_jax.benchmark.table import format_plan, format_report
from dreamer_jax.model.ops.convolutions import FORMULATIONS

CONFIG = cli.config_flag()
MEMBERS = flags.DEFINE_list("members", ["1"], "Numbers of members, as 1,5,10.")
BATCH = flags.DEFINE_integer("batch", None, "B; the config's by default.")
LENGTH = flags.DEFINE_integer("length", None, "L; the config's by default.")
CONV = flags.DEFINE_list("conv", [], "Formulations of convolutions; the config's by default.")
DTYPE = flags.DEFINE_list("compute_dtype", [], "Compute dtypes; the config's by default.")
REPEATS = flags.DEFINE_integer("repeats", 5, "Timed repetitions.")
SYNTHETIC = flags.DEFINE_bool("synthetic", False, "Batches of random numbers, not of the task.")
PARTS = flags.DEFINE_bool("parts", False, "Also time the parts of an update.")
LOOP = flags.DEFINE_bool("loop", False, "Also time the whole training loop.")
UPDATES = flags.DEFINE_integer("updates", 30, "Updates of the loop that are timed.")
PLAN = flags.DEFINE_bool("plan", False, "Only say how many members fit; runs no update.")
JSON = flags.DEFINE_string("json", None, "File for the rows.")
flags.mark_flag_as_required("config")


def main() -> None:
    # What is read from the cache of programs says nothing of how long they take to compile.
    jax.config.update("jax_enable_compilation_cache", False)
    configs = variants(
        CONFIG.value,
        members=[1] if PLAN.value else _members(),
        batch=BATCH.value,
        length=LENGTH.value,
        convs=CONV.value or (list(FORMULATIONS) if PLAN.value else []),
        dtypes=DTYPE.value,
    )
    name = flags.FLAGS["config"].config_filename
    if PLAN.value:
        print(format_plan(_keep(plan(configs, name=name))))
        return
    rows = benchmark(
        configs,
        name=name,
        repeats=REPEATS.value,
        updates=UPDATES.value,
        synthetic=SYNTHETIC.value,
        parts=PARTS.value,
        loop=LOOP.value,
    )
    print(format_report(_keep(rows)))


def _keep(rows: Iterable[dict]) -> list[dict]:
    """Write the rows so far to the file whenever there is one more, which can take minutes."""
    kept = []
    for row in rows:
        kept.append(row)
        print(f"measured {len(kept)}: {row['conv']}, {row['compute_dtype']}", file=sys.stderr)
        if JSON.value:
            Path(JSON.value).write_text(json.dumps(kept, indent=2) + "\n")
    return kept


def _members() -> list[int]:
    given = [entry.strip() for entry in MEMBERS.value]
    if not all(entry.isdecimal() for entry in given):
        allowed = "whole numbers of at least 1, as 1,5,10"
        raise cli.UsageError(f"--members is {','.join(given)!r}; allowed: {allowed}")
    return [int(entry) for entry in given]


if __name__ == "__main__":
    cli.run(main)
