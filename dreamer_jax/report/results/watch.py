"""A terminal table of runs and their members, refreshed from their files."""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dreamer_jax.report.progress import format_duration
from dreamer_jax.report.results.runs import Member, Run, read_runs
from dreamer_jax.report.scores.score import METRIC, is_number

STYLES = {"finished": "green", "running": "cyan", "stopped": "yellow", "frozen": "bold red"}
HEADINGS = (
    "run", "member", "seed", "state", "done", "train", "eval", "frames/s", "left", "health",
    "variant",
)  # fmt: skip
# Columns to the left, shortened where the terminal is narrow, with their share of its width.
TEXTS = {"run": 3, "health": 2, "variant": 4}


def watch(
    paths: Sequence[str | Path],
    every: float | None,
    console: Console | None = None,
    **known_keys: Any,
) -> None:
    """Show the table until Ctrl-C.

    Args:
        paths: work directories, or folders of them, also such as appear later.
        every: seconds between refreshes; None to print the table once.
        console: None for standard output.
        known_keys: `defaults` and `ignored` of `read_runs`.

    Raises:
        UsageError: a path does not exist.
    """
    console = console or Console()
    if every is None:
        console.print(render(paths, **known_keys))
        return
    with (
        contextlib.suppress(KeyboardInterrupt),
        Live(
            render(paths, **known_keys),
            console=console,
            auto_refresh=False,
            vertical_overflow="crop",
        ) as live,
    ):
        while True:
            time.sleep(every)
            live.update(render(paths, **known_keys), refresh=True)


def render(paths: Sequence[str | Path], **known_keys: Any) -> Group:
    """Read the runs, and return their table with a line for everything that cannot be read."""
    runs, problems = read_runs(paths, [METRIC], **known_keys)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold", expand=True)
    for heading in HEADINGS:
        ratio = TEXTS.get(heading)
        style = (
            {"justify": "left", "ratio": ratio, "min_width": 6} if ratio else {"justify": "right"}
        )
        table.add_column(heading, no_wrap=True, **style)
    for run in sorted(runs, key=lambda run: run.state == "finished"):
        for member in run.members:
            table.add_row(*_cells(run, member))
    lines = [Text(f"warning: {problem}", style="yellow") for problem in problems[:10]]
    if len(problems) > 10:
        lines.append(Text(f"and {len(problems) - 10} more warnings", style="yellow"))
    return Group(table, *lines)


def _cells(run: Run, member: Member) -> list[Text]:
    done = "-" if member.progress is None else f"{100 * member.progress:.0f}%"
    cells = {
        "run": run.name,
        "member": str(member.number),
        "seed": str(member.seed),
        "variant": member.label,
        "state": member.state,
        "done": done,
        "train": _number(member.latest.get("train_return")),
        "eval": _number(member.score and member.score.value),
        "frames/s": _number(member.latest.get("frames_per_s")),
        "left": _time_left(run, member),
        "health": _health(run, member),
    }
    texts = [Text(cells[heading]) for heading in HEADINGS]
    texts[HEADINGS.index("state")].stylize(STYLES[member.state])
    texts[HEADINGS.index("health")].stylize("red")
    return texts


def _time_left(run: Run, member: Member) -> str:
    repeat, rate = run.config.get("env.action_repeat", 1), member.latest.get("frames_per_s")
    known = all(is_number(value) and value > 0 for value in (run.steps, repeat, rate))
    if run.state != "running" or not known:
        return "-"
    return format_duration((run.steps - member.latest["env_step"]) * repeat / rate)


def _health(run: Run, member: Member) -> str:
    counts = {
        "non-finite updates": member.latest.get("skipped_updates"),
        "replaced environments": member.latest.get("env_faults"),
        "resumes": run.resumes,
    }
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _number(value: float | None) -> str:
    return f"{value:,.4g}" if is_number(value) else "-"
