"""Time updates of a config, and print a table of milliseconds, FLOP/s and memory.

  dreamer-jax benchmark --config=atari:pong --members=1,5,10 [--parts] [--loop]
  dreamer-jax benchmark --config=atari:pong --conv=winograd,lax --json=rows.json
  dreamer-jax benchmark --config=atari:pong --plan

docs/performance.md explains what is measured and counted.
"""

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamer_jax.commands.flags import Command, Flags, whole_number, whole_numbers, words
from dreamer_jax.commands.tables import Column, format_table

GIB = 2**30


def add_flags(flags: Flags) -> None:
    """Define the flags of the command."""
    count = whole_number(1)
    flags.add_config()
    flags.add_argument(
        "--members", type=whole_numbers(1), default=[1], help="numbers of members, as 1,5,10"
    )
    flags.add_argument("--batch", type=count, help="B; the config's by default")
    flags.add_argument("--length", type=count, help="L; the config's by default")
    flags.add_argument(
        "--conv", type=words, default=[], help="convolutions, as winograd,lax; the config's"
    )
    flags.add_argument(
        "--compute_dtype", type=words, default=[], help="as float32,bfloat16; the config's"
    )
    flags.add_argument("--repeats", type=count, default=5, help="timed repetitions; 5")
    flags.add_argument(
        "--synthetic", action="store_true", help="batches of random numbers instead of the task's"
    )
    flags.add_argument("--parts", action="store_true", help="also time the parts of an update")
    flags.add_argument("--loop", action="store_true", help="also time a training run")
    flags.add_argument("--updates", type=count, default=30, help="timed updates of --loop; 30")
    flags.add_argument(
        "--plan", action="store_true", help="only estimate how many members fit; runs no update"
    )
    flags.add_argument("--json", help="file for the rows")


def main(args: Namespace) -> None:
    """Measure, and print the table."""
    import jax

    from dreamer_jax.benchmark import suite
    from dreamer_jax.commands.process import prepare_to_compute
    from dreamer_jax.model.ops.convolutions import FORMULATIONS

    prepare_to_compute()
    # A program read from the cache would not show how long it takes to compile.
    jax.config.update("jax_enable_compilation_cache", False)
    configs = suite.variants(
        args.config,
        members=[1] if args.plan else args.members,
        batch=args.batch,
        length=args.length,
        convs=args.conv or (list(FORMULATIONS) if args.plan else []),
        dtypes=args.compute_dtype,
    )
    if args.plan:
        print(format_plan(_collect(suite.plan(configs, name=args.config_name), args.json)))
        return
    rows = suite.benchmark(
        configs,
        name=args.config_name,
        repeats=args.repeats,
        updates=args.updates,
        synthetic=args.synthetic,
        parts=args.parts,
        loop=args.loop,
    )
    print(format_report(_collect(rows, args.json)))


def _collect(rows: Iterable[dict], file: str | None) -> list[dict]:
    """Collect rows, which can take minutes each, and rewrite the file after every one."""
    collected = []
    for row in rows:
        collected.append(row)
        print(f"row {len(collected)}: {row['conv']}, {row['compute_dtype']}", file=sys.stderr)
        if file is not None:
            Path(file).write_text(json.dumps(collected, indent=2) + "\n")
    return collected


def format_report(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows of `suite.benchmark`: the updates, then the parts and the loop of each."""
    first = rows[0]
    peak = "matmul"
    if first["peak_from"] == "published":
        peak = _number("peak_flops_per_s", 0, 1e9)(first) + " GFLOP/s"
    blocks = [
        f"{first['config']} on {first['device']}, {first['cpus']} CPUs, JAX {first['jax']}; "
        f"peak: {peak}",
        format_table(UPDATE, rows),
    ]
    for row in rows:
        label = f"{row['members']} members, {row['conv']}, {row['compute_dtype']}"
        if row["parts"]:
            blocks.append(f"parts: {label}\n{format_table(PARTS, row['parts'])}")
        if row["loop"]:
            blocks.append(f"loop: {label}\n{format_table(LOOP, [row['loop']])}")
    return "\n\n".join(blocks)


def format_plan(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows of `suite.plan`."""
    first = rows[0]
    return f"{first['config']} on {first['device']}\n\n{format_table(PLAN, rows)}"


def _number(key: str, digits: int = 1, unit: float = 1.0) -> Callable[[Mapping[str, Any]], str]:
    """Return a cell of `row[key] / unit`, or '-' if it is None."""
    return lambda row: "-" if row[key] is None else f"{row[key] / unit:,.{digits}f}"


def _text(key: str) -> Callable[[Mapping[str, Any]], str]:
    return lambda row: str(row[key])


SIZES = (
    Column("members", _text("members")),
    Column("batch", _text("batch")),
    Column("length", _text("length")),
    Column("conv", _text("conv")),
    Column("dtype", _text("compute_dtype")),
)
TIMES = (
    Column("ms", _number("ms_per_update")),
    Column("min", _number("ms_min")),
    Column("max", _number("ms_max")),
)
RATES = (
    Column("GFLOP", _number("flops_per_update", 2, 1e9)),
    Column("GFLOP/s", _number("flops_per_s", 1, 1e9)),
    Column("% peak", _number("peak_fraction", 1, 0.01)),
)
UPDATE = (
    *SIZES,
    Column("lower s", _number("lower_s")),
    Column("compile s", _number("compile_s")),
    *TIMES,
    Column("updates/s", _number("updates_per_s", 2)),
    Column("member updates/s", _number("member_updates_per_s", 2)),
    Column("imagined/s", _number("imagined_states_per_s", 0)),
    *RATES,
    Column("matmul GFLOP/s", _number("matmul_flops_per_s", 1, 1e9)),
    Column("GiB", _number("peak_bytes", 2, GIB)),
    Column("", lambda row: row["error"] or ""),
)
PARTS = (Column("part", _text("part")), *TIMES, *RATES)
LOOP = (
    Column("learner %", _number("learner_share", 1, 0.01)),
    Column("policy %", _number("policy_share", 1, 0.01)),
    Column("updates/s", _number("updates_per_s", 2)),
    Column("env steps/s", _number("env_steps_per_s", 1)),
    Column("policy ms", _number("policy_ms", 2)),
    Column("policy latency ms", _number("policy_latency_ms", 2)),
    Column("host ms", _number("host_ms", 2)),
)
PLAN = (
    *SIZES[1:],
    Column("temporaries GiB", _number("temp_bytes", 2, GIB)),
    Column("one member GiB", _number("bytes_one", 2, GIB)),
    Column("each additional GiB", _number("bytes_per_member", 2, GIB)),
    Column("limit GiB", _number("bytes_limit", 1, GIB)),
    Column("members that fit", _text("members_that_fit")),
)
COMMAND = Command(__doc__, add_flags, main)
