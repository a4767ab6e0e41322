"""The display of a run, on a terminal and on a plain stream, with a clock that tests turn."""

import io
import statistics
import time

import pytest

from dreamer_jax.report.progress import Progress


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def stream():
    return io.StringIO()


@pytest.fixture
def terminal(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("TERM", "xterm-256color"), ("COLUMNS", "100"), ("LINES", "40")):
        monkeypatch.setenv(name, value)
    return Terminal()


def test_rates_count_from_the_resumed_step(stream, clock):
    with Progress(1000, [7], stream=stream, clock=clock) as progress:
        progress.update(500, 2000, 90, [None])
        clock.now += 10
        progress.update(600, 2400, 140, [21.0])
    first, second = stream.getvalue().splitlines()
    assert first == "50.0% | 500 / 1,000 env steps"
    # 400 steps are left at 100 steps in 10 s.
    assert second == (
        "60.0%  00:00:40 left | 600 / 1,000 env steps | 40.0 frames/s | 5.0 updates/s | "
        "train_return 21.0"
    )


def test_rates_forget_what_is_older_than_the_window(stream, clock):
    with Progress(10**6, [0], stream=stream, clock=clock, window=20.0) as progress:
        step = 0
        for speed in [1000] * 5 + [10] * 5:
            progress.update(step, step, step, [None])
            clock.now += 10
            step += 10 * speed
        progress.update(step, step, step, [None])
    line = stream.getvalue().splitlines()[-1]
    assert "| 10.0 frames/s | 10.0 updates/s" in line
    assert "1d 02:22:30 left" in line  # (1,000,000 - 50,500) / 10 = 94,950 s


def test_plain_lines_keep_their_distance_and_the_last_state_is_printed(stream, clock):
    with Progress(100, [0, 1], stream=stream, clock=clock, plain_every=10.0) as progress:
        for step in range(26):
            progress.update(step, step, step, [float(step), None])
            clock.now += 1
    shown = [int(line.split("| ")[1].split(" /")[0]) for line in stream.getvalue().splitlines()]
    assert shown == [0, 10, 20, 25]
    assert "\x1b" not in stream.getvalue()


def test_results_of_an_evaluation_are_printed_at_once(stream, clock):
    """Before pictures are drawn, which takes time and may fail."""
    with Progress(100, [0], stream=stream, clock=clock) as progress:
        progress.update(1, 1, 0, [1.0])
        progress.update(2, 2, 0, [None], eval_returns=[8.0])
        assert "eval_return 8.0" in stream.getvalue()


def test_forced_colours_do_not_make_a_file_a_terminal(stream, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    with Progress(100, [0], stream=stream) as progress:
        progress.update(1, 4, 0, [1.0])
    assert "\x1b" not in stream.getvalue()


def test_nothing_is_printed_before_the_first_update(stream):
    with Progress(100, [0], stream=stream):
        pass
    assert stream.getvalue() == ""


def test_plain_line_of_several_members_gives_the_spread(stream, clock):
    with Progress(100, [5, 6, 7], stream=stream, clock=clock) as progress:
        progress.update(10, 40, 1, [3.0, None, 1.0], eval_returns=[None, 8.0, None])
        clock.now += 2
        progress.update(12, 48, 2, [None, 11.0, None])
    last = stream.getvalue().splitlines()[-1]
    assert "3 members x 4.0 frames/s" in last
    assert last.endswith("train_return 3.0 (1.0 .. 11.0) | eval_return 8.0 (8.0 .. 8.0)")


def test_messages_are_printed_as_they_are(stream, terminal):
    text = "[bold]member 3[/bold] frozen: [x]"
    with Progress(100, [0], stream=stream) as progress:
        progress.print(text)
    assert stream.getvalue() == text + "\n"
    with Progress(100, [0], stream=terminal) as progress:
        progress.update(10, 40, 1, [None])
        progress.print(text)
    assert text in terminal.getvalue()


def last_frame(terminal):
    """Return what is left on the screen: the text behind the last 'erase line'."""
    return terminal.getvalue().rpartition("\x1b[2K")[2]


def plain(text):
    """Without colours, one list of words a line."""
    for code in ("0m", "1m", "2m"):
        text = text.replace(f"\x1b[{code}", "")
    return [line.split() for line in text.splitlines()]


def test_live_display_shows_each_member(terminal, clock):
    with Progress(1000, [11, 12], stream=terminal, clock=clock) as progress:
        progress.update(100, 400, 5, [1.5, None])
        clock.now += 10
        progress.update(300, 1200, 25, [None, 2000.0], eval_returns=[None, -3.0])
    rows = plain(last_frame(terminal))
    assert rows[0][-3:] == ["30.0%", "00:00:35", "left"]
    assert "2 members x 80.0 frames/s  2.0 updates/s".split() == rows[1][-7:]
    assert ["11", "1.5", "100", "-", "-"] in rows
    assert ["12", "2,000.0", "300", "-3.0", "300"] in rows


def test_live_display_shows_what_members_differ_in(terminal):
    with Progress(10, [1, 1], settings=["rho 0.1", "rho 0.5"], stream=terminal) as progress:
        progress.update(1, 4, 0, [1.5, None])
    rows = plain(last_frame(terminal))
    assert rows[2][-1] == "setting"
    assert ["1", "1.5", "1", "-", "-", "rho", "0.1"] in rows
    assert ["1", "-", "-", "-", "-", "rho", "0.5"] in rows


def test_live_display_of_many_members_gives_the_spread_and_the_first_few(terminal):
    with Progress(1000, list(range(100, 113)), stream=terminal) as progress:
        progress.update(10, 40, 1, [float(member) for member in range(13)])
    rows = plain(last_frame(terminal))
    assert [row[0] for row in rows if row and row[0].startswith("10")][-5:] == [
        str(seed) for seed in range(100, 105)
    ]
    assert ["...", "8", "more"] in rows
    for name, value in (("min", "0.0"), ("median", "6.0"), ("max", "12.0")):
        assert [name, "of", "13", value, "-"] in rows


def test_twelve_members_are_all_shown(terminal):
    with Progress(1000, list(range(50, 62)), stream=terminal) as progress:
        progress.update(10, 40, 1, [None] * 12)
    seeds = [row[0] for row in plain(last_frame(terminal)) if row[1:2] == ["-"]]
    assert seeds == [str(seed) for seed in range(50, 62)]


def test_a_terminal_that_cannot_move_its_cursor_gets_plain_lines(terminal, monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    with Progress(100, [0], stream=terminal) as progress:
        progress.update(1, 4, 0, [1.0])
    assert terminal.getvalue() == "1.0% | 1 / 100 env steps | train_return 1.0\n"


def test_the_display_is_closed_when_the_run_fails(terminal):
    with pytest.raises(RuntimeError, match="boom"):
        with Progress(100, [0], stream=terminal) as progress:
            progress.update(50, 200, 1, [1.0])
            raise RuntimeError("boom")
    # The cursor is shown again.
    assert terminal.getvalue().rstrip().endswith("\x1b[?25h")


def test_an_update_costs_less_than_a_millisecond(terminal):
    costs = []
    with Progress(10**6, list(range(64)), stream=terminal) as progress:
        for step in range(500):
            start = time.perf_counter()
            progress.update(step, step, step, [1.0] * 64, eval_returns=[2.0] * 64)
            costs.append(time.perf_counter() - start)
    assert statistics.median(costs) < 1e-3


def test_returns_of_another_number_of_members(stream):
    with Progress(10, [1, 2], stream=stream) as progress:
        with pytest.raises(ValueError, match="^returns has 1 entries, the run has 2 members"):
            progress.update(1, 1, 1, [None])
        with pytest.raises(ValueError, match="^eval_returns has 3 entries"):
            progress.update(1, 1, 1, [None] * 2, eval_returns=[None] * 3)
