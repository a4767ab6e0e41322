"""Time updates of a config, and print a table of milliseconds, FLOP/s and memory.

  dreamer-jax benchmark --config=atari:pong --members=1,5,10 [--parts] [--loop]
  dreamer-jax benchmark --config=atari:pong --conv=blocks,lax --json=rows.json
  dreamer-jax benchmark --config=atari:pong --plan
  dreamer-jax benchmark --config=atari:pong --plan --topology=h100 --members=1,5

docs/performance.md explains what is measured and counted.
"""

import json
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dreamer_jax.commands.flags import Command, Flags, whole_number, whole_numbers, words
from dreamer_jax.commands.tables import Column, format_table
from dreamer_jax.errors import UsageError

GIB = 2**30


def add_flags(flags: Flags) -> None:
    add = flags.add_argument
    count = whole_number(1)
    flags.add_config()
    add("--members", type=whole_numbers(1), default=[1], help="numbers of members, as 1,5,10")
    add("--batch", type=count, help="B; the config's by default")
    add("--length", type=count, help="L; the config's by default")
    add("--conv", type=words, default=[], help="convolutions, as blocks,lax; the config's")
    add("--compute_dtype", type=words, default=[], help="as float32,bfloat16; the config's")
    add("--repeats", type=count, default=5, help="timed repetitions; 5")
    add("--synthetic", action="store_true", help="batches of random numbers instead of the task's")
    add("--parts", action="store_true", help="also time the parts of an update")
    add("--loop", action="store_true", help="also time a training run")
    add("--updates", type=count, default=30, help="timed updates of --loop; 30")
    add("--plan", action="store_true", help="only estimate how many members fit; runs no update")
    add(
        "--topology",
        help="compile for absent devices, and count what the program does: h100, h200, v5e, v6e or "
        "a GPU's file, with chips as in h100:1x4",
    )
    add("--json", help="file for the rows")


def main(args: Namespace) -> None:
    """Measure, and print the table."""
    import jax

    from dreamer_jax.benchmark import suite
    from dreamer_jax.model.ops.convolutions import FORMULATIONS
    from dreamer_jax.runtime import prepare

    if args.topology is not None:
        if not args.plan:
            raise UsageError("--topology needs --plan: nothing can be timed on absent devices")
        jax.config.update("jax_platforms", "cpu")  # a compiler's plugin would look for its device
    prepare()
    # A program read from the cache would not show how long it takes to compile.
    jax.config.update("jax_enable_compilation_cache", False)
    configs = suite.variants(
        args.config,
        members=[1] if args.plan and args.topology is None else args.members,
        batch=args.batch,
        length=args.length,
        convs=args.conv or (list(FORMULATIONS) if args.plan and args.topology is None else []),
        dtypes=args.compute_dtype,
    )
    if args.topology is not None:
        rows = suite.plan_absent(configs, name=args.config_name, topology=args.topology)
        print(format_absent(_collect(rows, args.json)))
        return
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
    """Collect rows; each can take minutes, so rewrite the file after every one."""
    collected = []
    if file is not None:
        Path(file).write_text("[]\n")  # or say now that it cannot be written
    for row in rows:
        collected.append(row)
        print(f"row {len(collected)}: {row['conv']}, {row['compute_dtype']}", file=sys.stderr)
        if file is not None:
            Path(file).write_text(json.dumps(collected, indent=2) + "\n")
    return collected


def format_report(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows of `suite.benchmark`: the updates, then the parts and the loop of each."""
    first, peak = rows[0], "matmul"
    if first["peak_from"] == "published":
        peak = f"{first['peak_flops_per_s'] / 1e9:,.0f} GFLOP/s"
    head = f"{first['config']} on {first['device']}, {first['cpus']} CPUs, JAX {first['jax']}"
    updates = _show_errors(rows)
    blocks = [f"{head}; peak: {peak}", format_table(UPDATE, updates)]
    for row in rows:
        label = f"{row['members']} members, {row['conv']}, {row['compute_dtype']}"
        if row["parts"]:
            blocks.append(f"parts: {label}\n{format_table(PARTS, row['parts'])}")
        if row["loop"]:
            blocks.append(f"loop: {label}\n{format_table(LOOP, [row['loop']])}")
    return "\n\n".join(blocks)


def format_absent(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows of `suite.plan_absent`."""
    first = rows[0]
    head = f"{first['config']} on {first['devices']} {first['device']}, compiled, not run"
    return f"{head}\n{format_table(ABSENT, _show_errors(rows))}"


def _show_errors(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return rows whose column of errors is empty where there is none."""
    return [{**row, "error": row["error"] or ""} for row in rows]


def format_plan(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows of `suite.plan`."""
    return f"{rows[0]['config']} on {rows[0]['device']}\n\n{format_table(PLAN, rows)}"


SIZES = (
    Column("members", "members"),
    Column("batch", "batch"),
    Column("length", "length"),
    Column("conv", "conv"),
    Column("dtype", "compute_dtype"),
)
TIMES = (Column("ms", "ms_per_update", 1), Column("min", "ms_min", 1), Column("max", "ms_max", 1))
RATES = (
    Column("GFLOP", "flops_per_update", 2, 1e9),
    Column("GFLOP/s", "flops_per_s", 1, 1e9),
    Column("% peak", "peak_fraction", 1, 0.01),
)
UPDATE = (
    *SIZES,
    Column("lower s", "lower_s", 1),
    Column("compile s", "compile_s", 1),
    *TIMES,
    Column("updates/s", "updates_per_s", 2),
    Column("member updates/s", "member_updates_per_s", 2),
    Column("imagined/s", "imagined_states_per_s", 0),
    *RATES,
    Column("matmul GFLOP/s", "matmul_flops_per_s", 1, 1e9),
    Column("GiB", "peak_bytes", 2, GIB),
    Column("", "error"),
)
PARTS = (Column("part", "part"), *TIMES, *RATES)
LOOP = (
    Column("learner %", "learner_share", 1, 0.01),
    Column("policy %", "policy_share", 1, 0.01),
    Column("updates/s", "updates_per_s", 2),
    Column("env steps/s", "env_steps_per_s", 1),
    Column("policy ms", "policy_ms", 2),
    Column("policy latency ms", "policy_latency_ms", 2),
    Column("host ms", "host_ms", 2),
)
PLAN = (
    *SIZES[1:],
    Column("temporaries GiB", "temp_bytes", 2, GIB),
    Column("one member GiB", "bytes_one", 2, GIB),
    Column("each additional GiB", "bytes_per_member", 2, GIB),
    Column("limit GiB", "bytes_limit", 1, GIB),
    Column("members that fit", "members_that_fit"),
)
ABSENT = (
    *SIZES,
    Column("compile s", "compile_s", 0),
    Column("GFLOP", "compiled_flops", 0, 1e9),
    Column("counted", "flops_per_update", 0, 1e9),
    Column("GB moved", "moved_bytes", 1, 1e9),
    Column("launches", "launches"),
    Column("collectives", "collectives"),
    Column("temporaries GiB", "temp_bytes", 2, GIB),
    Column("program GiB", "program_bytes", 2, GIB),
    Column("FLOP ms", "flops_ms", 2),
    Column("bytes ms", "bytes_ms", 2),
    Column("launch ms", "launches_ms", 2),
    Column("", "error"),
)
COMMAND = Command(__doc__, add_flags, main)
