"""Benchmark rows as text for a terminal."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

GIB = 2**30


class Column(NamedTuple):
    """A heading and what stands under it."""

    heading: str
    cell: Callable[[Mapping[str, Any]], str]


def number(key: str, digits: int = 1, unit: float = 1.0) -> Callable[[Mapping[str, Any]], str]:
    """A cell with `row[key] / unit`, '-' where it is None."""
    return lambda row: "-" if row[key] is None else f"{row[key] / unit:,.{digits}f}"


def text(key: str) -> Callable[[Mapping[str, Any]], str]:
    """A cell with `row[key]` as it is."""
    return lambda row: str(row[key])


SIZES = (
    Column("members", text("members")),
    Column("batch", text("batch")),
    Column("length", text("length")),
    Column("conv", text("conv")),
    Column("dtype", text("compute_dtype")),
)
TIMES = (
    Column("ms", number("ms_per_update")),
    Column("min", number("ms_min")),
    Column("max", number("ms_max")),
)
RATES = (
    Column("GFLOP", number("flops_per_update", 2, 1e9)),
    Column("GFLOP/s", number("flops_per_s", 1, 1e9)),
    Column("% peak", number("peak_fraction", 1, 0.01)),
)
UPDATE = (
    *SIZES,
    Column("lower s", number("lower_s")),
    Column("compile s", number("compile_s")),
    *TIMES,
    Column("updates/s", number("updates_per_s", 2)),
    Column("member updates/s", number("member_updates_per_s", 2)),
    Column("imagined/s", number("imagined_states_per_s", 0)),
    *RATES,
    Column("matmul GFLOP/s", number("matmul_flops_per_s", 1, 1e9)),
    Column("GiB", number("peak_bytes", 2, GIB)),
    Column("", lambda row: row["error"] or ""),
)
PARTS = (Column("part", text("part")), *TIMES, *RATES)
LOOP = (
    Column("learner %", number("learner_share", 1, 0.01)),
    Column("policy %", number("policy_share", 1, 0.01)),
    Column("updates/s", number("updates_per_s", 2)),
    Column("env steps/s", number("env_steps_per_s", 1)),
    Column("policy ms", number("policy_ms", 2)),
    Column("policy latency ms", number("policy_latency_ms", 2)),
    Column("environments ms", number("environments_ms", 2)),
    Column("gather ms", number("gather_ms", 2)),
    Column("copy ms", number("copy_ms", 2)),
)
PLAN = (
    *SIZES[1:],
    Column("temporaries GiB", number("temp_bytes", 2, GIB)),
    Column("one member GiB", number("bytes_one", 2, GIB)),
    Column("each further GiB", number("bytes_per_member", 2, GIB)),
    Column("limit GiB", number("bytes_limit", 1, GIB)),
    Column("members that fit", text("members_that_fit")),
)
CHOICES = (
    Column("choice", text("choice")),
    Column("chosen", text("chosen")),
    Column("other", text("other")),
    Column("part", text("part")),
    Column("ms", number("ms")),
    Column("other ms", number("other_ms")),
    Column("other / chosen", number("ratio", 2)),
    Column("min", number("ratio_min", 2)),
    Column("max", number("ratio_max", 2)),
    Column("GiB", number("bytes", 2, GIB)),
    Column("other GiB", number("other_bytes", 2, GIB)),
)


def format_table(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows under headings, aligned to the right."""
    cells = [[column.heading for column in columns]]
    cells += [[column.cell(row) for column in columns] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(map(str.rjust, line, widths)).rstrip() for line in cells)
    return "\n".join(lines)


def format_report(rows: Sequence[Mapping[str, Any]]) -> str:
    """All that rows of `benchmark` hold: the updates, then the parts and the loop of each."""
    first = rows[0]
    peak = "matmul"
    if first["peak_from"] == "published":
        peak = number("peak_flops_per_s", 0, 1e9)(first) + " GFLOP/s"
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
    """Rows of `plan`."""
    first = rows[0]
    return f"{first['config']} on {first['device']}\n\n{format_table(PLAN, rows)}"
