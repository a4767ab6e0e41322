"""Show a run's progress: a live bar and a line per member on a terminal, else plain lines."""

import math
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dreamer_jax.streams import SafeStream

REFRESH_HZ = 4
MAX_ROWS = 12  # members shown one by one; beyond it the first FEW_ROWS and the spread
FEW_ROWS = 5
STATISTICS = {"min": min, "median": statistics.median, "max": max}

Latest = tuple[float, int] | None  # the last return of a member and its env step


class _Point(NamedTuple):
    time: float  # s
    env_step: int
    frame: int
    update: int


class Progress:
    """A context manager that shows the progress of a run.

    `update` only stores its arguments; a thread of the live display renders them `REFRESH_HZ` times
    per second, so the training loop never waits for the terminal. What cannot be shown is lost:
    nothing here raises because of the stream.
    """

    def __init__(
        self,
        total_steps: int,
        seeds: Sequence[int],
        enabled: bool | None = None,
        *,
        settings: Sequence[str] = (),
        stream: TextIO | None = None,
        plain_every: float = 10.0,
        window: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ):
        """Prepare the display; the `with` block shows it.

        Args:
            total_steps: env steps per member at the end of the run, at least 1.
            seeds: [M].
            enabled: True for the live display, False for plain lines, None for the one that suits
                `stream`.
            settings: [M], the hyperparameters of each member in words; empty if members differ
                only in the seed.
            stream: None for standard output.
            plain_every: seconds between plain lines.
            window: seconds over which frames/s and updates/s are averaged.
            clock: returns seconds; not wall time, which jumps.
        """
        self._stream = SafeStream(sys.stdout if stream is None else stream)
        self._console = Console(file=self._stream, force_terminal=enabled or None)
        if enabled is None:
            enabled = self._stream.isatty() and not self._console.is_dumb_terminal
        self._total, self._seeds = total_steps, list(seeds)
        self._settings = list(settings) if any(settings) else []
        self._plain_every, self._window, self._clock = plain_every, window, clock
        self._points: deque[_Point] = deque()
        self._now = _Point(0.0, 0, 0, 0)
        self._train: list[Latest] = [None] * len(seeds)
        self._eval: list[Latest] = [None] * len(seeds)
        self._last_plain = -math.inf
        self._unshown = False
        # Last: it renders once while it is built.
        self._live = enabled and Live(
            console=self._console, refresh_per_second=REFRESH_HZ, get_renderable=self._render
        )

    def __enter__(self) -> "Progress":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._live:
            self._live.stop()
        elif self._unshown:
            self._print_line()

    def update(
        self,
        env_step: int,
        frame: int,
        update: int,
        returns: Sequence[float | None],
        *,
        eval_returns: Sequence[float | None] = (),
    ) -> None:
        """Store the place of the run. Costs microseconds; may be called at every step.

        Args:
            env_step, frame, update: counts per member so far. Rates count from the first call, so
                that a resumed run shows its own speed.
            returns: [M], the train_return of each member; None keeps the last one and its step.
            eval_returns: [M], likewise for eval_return; or empty.
        """
        self._now = _Point(self._clock(), env_step, frame, update)
        self._unshown = True
        self._keep("returns", self._train, returns)
        if eval_returns:
            self._keep("eval_returns", self._eval, eval_returns)
        if not self._points or self._now.time - self._points[-1].time >= 1 / REFRESH_HZ:
            # A new deque: a concurrent render keeps reading the old one.
            points = deque([*self._points, self._now])
            while len(points) > 2 and points[1].time <= self._now.time - self._window:
                points.popleft()
            self._points = points
        late = self._now.time - self._last_plain >= self._plain_every
        if not self._live and (late or eval_returns):  # results are worth a line at once
            self._print_line()

    def print(self, text: str) -> None:
        """Print `text` verbatim above the display."""
        if self._live:
            self._console.print(Text(text), soft_wrap=True)
        else:
            print(text, file=self._stream, flush=True)

    def _keep(self, name: str, latest: list, values: Sequence[float | None]) -> None:
        if len(values) != len(latest):
            raise ValueError(f"{name} has {len(values)} entries, the run has {len(latest)} members")
        for member, value in enumerate(values):
            if value is not None:
                latest[member] = (float(value), self._now.env_step)

    def _rates(self) -> _Point | None:
        """Return the rates per second over the window; None before time has passed."""
        now, first = self._now, self._points[0] if self._points else self._now
        elapsed = now.time - first.time
        if elapsed <= 0:
            return None
        return _Point(*((b - a) / elapsed for a, b in zip(first, now, strict=True)))

    def _counters(self) -> list[str]:
        rates, members = self._rates(), len(self._seeds)
        parts = [f"{self._now.env_step:,} / {self._total:,} env steps"]
        if rates:
            each = f"{members} members x " if members > 1 else ""
            parts += [f"{each}{_rate(rates.frame)} frames/s", f"{_rate(rates.update)} updates/s"]
        return parts

    def _share(self) -> str:
        """Return '12.5%  01:23:45 left'; without the time while there is no rate."""
        share, rates = f"{min(1.0, self._now.env_step / self._total):.1%}", self._rates()
        if not rates or rates.env_step <= 0:
            return share
        return (
            f"{share}  {format_duration((self._total - self._now.env_step) / rates.env_step)} left"
        )

    def _print_line(self) -> None:
        self._last_plain, self._unshown = self._clock(), False
        parts = [self._share(), *self._counters()]
        for name, latest in (("train_return", self._train), ("eval_return", self._eval)):
            if any(latest):
                low, middle, high = (_statistic(fn, latest) for fn in STATISTICS.values())
                parts.append(f"{name} {middle}" + f" ({low} .. {high})" * (len(latest) > 1))
        self.print(" | ".join(parts))

    def _render(self) -> Group:
        bar = Table.grid(padding=(0, 1), expand=True)
        bar.add_column(ratio=1)
        bar.add_column(justify="right")
        done = ProgressBar(self._total, self._now.env_step, complete_style="cyan")
        bar.add_row(done, self._share())
        return Group(bar, Text("  ".join(self._counters()), style="dim"), self._table())

    def _table(self) -> Table:
        members = len(self._seeds)
        table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
        for name in ("seed", "train_return", "at step", "eval_return", "at step"):
            table.add_column(name, justify="right")
        if self._settings:
            table.add_column("setting")
        for member in range(members if members <= MAX_ROWS else FEW_ROWS):
            cells = [*_cells(self._train[member]), *_cells(self._eval[member])]
            table.add_row(str(self._seeds[member]), *cells, *self._settings[member : member + 1])
        if members > MAX_ROWS:
            table.add_row(f"... {members - FEW_ROWS} more", style="dim")
            for name, fn in STATISTICS.items():
                train, evaluation = _statistic(fn, self._train), _statistic(fn, self._eval)
                table.add_row(f"{name} of {members}", train, "", evaluation, "", style="bold")
        return table


def _cells(latest: Latest) -> tuple[str, str]:
    return ("-", "-") if latest is None else (f"{latest[0]:,.1f}", f"{latest[1]:,}")


def _statistic(fn: Callable, latest: Sequence[Latest]) -> str:
    values = [entry[0] for entry in latest if entry is not None]
    return f"{fn(values):,.1f}" if values else "-"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def format_duration(seconds: float) -> str:
    """Return seconds as text: 93784.0 is '1d 02:03:04'."""
    minutes, second = divmod(max(0, round(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    return (f"{days}d " if days else "") + f"{hour:02}:{minute:02}:{second:02}"
