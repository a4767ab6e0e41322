"""A terminal table of runs and their members, refreshed from their files."""

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dreamer_jax.report.progress import format_duration
from dreamer_jax.report.results.runs import Member, Run, read_runs
from dreamer_jax.report.scores.score import METRIC, is_number

STYLES = {"finished": "green", "running": "cyan", "stopped": "yellow", "frozen": "bold red"}
HEADINGS = (
    "run", "member", "seed", "variant", "state", "done", "step", "train_return", METRIC,
    "frames/s", "left", "health",
)  # fmt: skip
TEXTS = ("run", "variant", "state", "health")


def watch(paths: Sequence[str | Path], every: float | None, console: Console | None = None) -> None:
    """Show the table until Ctrl-C.

    Args:
        paths: work directories, or folders of them, also such as appear later.
        every: seconds between refreshes; None to print the table once.
        console: None for standard output.

    Raises:
        UsageError: a path does not exist.
    """
    console = console or Console()
    if every is None:
        console.print(render(paths))
        return
    with (
        contextlib.suppress(KeyboardInterrupt),
        Live(render(paths), console=console, auto_refresh=False, vertical_overflow="crop") as live,
    ):
        while True:
            time.sleep(every)
            live.update(render(paths), refresh=True)


def render(paths: Sequence[str | Path]) -> Group:
    """Read the runs, and return their table with a line for everything that cannot be read."""
    runs, problems = read_runs(paths, [METRIC])
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in HEADINGS:
        table.add_column(heading, justify="left" if heading in TEXTS else "right")
    for run in sorted(runs, key=lambda run: run.state == "finished"):
        for member in run.members:
            table.add_row(*_cells(run, member))
    lines = [Text(f"warning: {problem}", style="yellow") for problem in problems[:10]]
    if len(problems) > 10:
        lines.append(Text(f"and {len(problems) - 10} more warnings", style="yellow"))
    return Group(table, *lines)


def _cells(run: Run, member: Member) -> list[Text]:
    latest, steps = member.latest, run.steps
    step = latest["env_step"]
    done = "-" if member.progress is None else f"{100 * member.progress:.0f}%"
    cells = {
        "run": run.name,
        "member": str(member.number),
        "seed": str(member.seed),
        "variant": member.label,
        "state": member.state,
        "done": done,
        "step": f"{step:,}" + (f" / {steps:,}" if steps else ""),
        "train_return": _number(latest.get("train_return")),
        METRIC: _number(member.score and member.score.value),
        "frames/s": _number(latest.get("frames_per_s")),
        "left": _time_left(run, member),
        "health": _health(member),
    }
    texts = [Text(cells[heading]) for heading in HEADINGS]
    texts[HEADINGS.index("state")].stylize(STYLES[member.state])
    texts[HEADINGS.index("health")].stylize("red")
    return texts


def _time_left(run: Run, member: Member) -> str:
    repeat, rate = run.config.get("env.action_repeat", 1), member.latest.get("frames_per_s")
    if run.state != "running" or run.steps is None or not (is_number(rate) and rate > 0):
        return "-"
    return format_duration((run.steps - member.latest["env_step"]) * repeat / rate)


def _health(member: Member) -> str:
    counts = {
        "non-finite updates": member.latest.get("skipped_updates"),
        "replaced environments": member.latest.get("env_faults"),
    }
    return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


def _number(value: float | None) -> str:
    return f"{value:,.4g}" if is_number(value) else "-"
