"""Time what the code does against what it could do instead, in turns, on this machine.

python experiments/choices.py --config=configs/atari.py:pong --batch=16 --json=choices.json
python experiments/choices.py --config=configs/atari.py:pong --choices=gru,sample

`dreamer_jax/benchmark/choices.py` has them all. One member, random numbers for batches.
"""

import json
from pathlib import Path

import jax
from absl import flags

from dreamer_jax import cli
from dreamer_jax.benchmark.choices import CHOICES, measure_choices
from dreamer_jax.benchmark.suite import describe, variants
from dreamer_jax.benchmark.table import CHOICES as COLUMNS
from dreamer_jax.benchmark.table import format_table
from dreamer_jax.run import build

CONFIG = cli.config_flag()
NAMES = flags.DEFINE_list("choices", list(CHOICES), "Which choices; all by default.")
BATCH = flags.DEFINE_integer("batch", None, "B; the config's by default.")
REPEATS = flags.DEFINE_integer("repeats", 9, "Timed pairs.", lower_bound=1)
JSON = flags.DEFINE_string("json", None, "File for the rows.")
flags.mark_flag_as_required("config")


def main() -> None:
    # A program from the cache may be of another formulation than the one that is traced.
    jax.config.update("jax_enable_compilation_cache", False)
    (config,) = variants(CONFIG.value, members=[1], batch=BATCH.value)
    parts = build(config)
    about = describe(parts, flags.FLAGS["config"].config_filename)
    rows = []
    for row in measure_choices(parts, NAMES.value, repeats=REPEATS.value):
        rows.append(about | row)
        print(format_table(COLUMNS, rows[-1:]), flush=True)
        if JSON.value:
            Path(JSON.value).write_text(json.dumps(rows, indent=2) + "\n")
    print(format_table(COLUMNS, rows))


if __name__ == "__main__":
    cli.run(main)
