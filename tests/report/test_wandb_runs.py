"""W&B reporting with the real wandb, offline: what its files hold, and what happens when it fails.

Nothing here reaches a network.
"""

import json
import sys
import threading
import time

import pytest
import wandb
from reported_runs import (
    SEEDS,
    UNREACHABLE,
    eval_rows,
    histories,
    log_rows,
    make_rows,
    wait_for,
    write,
)
from wandb_files import read_histories

from dreamer_jax.errors import UsageError
from dreamer_jax.report.metrics_log import encode_row
from dreamer_jax.report.wandb_runs import WandbRuns


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Makes reporters of one run in `tmp_path`; afterwards lets go of W&B's process."""
    warnings, reporters = [], []
    # Kept as it was: the reporter sets it for the process.
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")

    def start(**changes):
        arguments = {
            "mode": "offline",
            "project": "project",
            "entity": None,
            "group": "sweep",
            "tags": ("catch",),
            "member_configs": [{"seed": seed, "opt": {"lr": 1e-3}} for seed in SEEDS],
            "state_file": tmp_path / "wandb.json",
            "directory": tmp_path / "service",
            "warn": warnings.append,
        }
        reporters.append(WandbRuns(tmp_path / "metrics.jsonl", **(arguments | changes)))
        return reporters[-1]

    start.warnings = warnings
    yield start
    for reporter in reporters:
        reporter.close(timeout=5)
    wandb.teardown()


def expected(rows, member):
    """A member's history: its rows without who it is and without what is missing."""
    return [
        {k: v for k, v in row.items() if k not in ("member", "seed") and v is not None}
        for row in rows
        if row["member"] == member
    ]


def without_step(history):
    return [{key: value for key, value in row.items() if key != "_step"} for row in history]


def test_three_members_leave_their_rows_and_the_aggregates(tmp_path, start):
    groups = [log_rows(10), eval_rows(10), log_rows(20)]
    size = write(tmp_path / "metrics.jsonl", *groups)
    reporter = start()
    reporter.sync(size)
    reporter.close()
    assert start.warnings == []
    assert len(list((tmp_path / "service").glob("wandb/offline-run-*"))) == 4
    *members, total = histories(tmp_path)
    for member, run in enumerate(members):
        rows = [row for rows in groups for row in rows]
        assert without_step(run["history"]) == expected(rows, member)
        assert [row["_step"] for row in run["history"]] == [0, 1, 2]
        assert run["name"] == f"sweep/seed{SEEDS[member]}"
        assert run["config"]["seed"] == SEEDS[member] and run["config"]["opt"] == {"lr": 1e-3}
        assert (run["group"], run["job_type"], run["tags"]) == ("sweep", "member", ["catch"])
    assert (total["name"], total["group"]) == ("sweep/aggregate", "sweep")
    assert (total["job_type"], total["tags"]) == ("aggregate", ["catch"])
    assert total["config"]["opt"] == {"lr": 1e-3} and "seed" not in total["config"]
    assert total["history"][1] == {
        "_step": 1,
        "env_step": 10,
        "frame": 40,
        "update": 5,
        "eval_return/mean": 3.0,
        "eval_return/iqm": 3.0,
        "eval_return/min": 1.0,
        "eval_return/max": 6.0,
    }
    assert total["history"][0]["train_return/mean"] == 2.0
    assert len(total["history"]) == 3


def test_only_the_aggregates_hold_the_load_of_the_machine(tmp_path, start):
    reporter = start()
    reporter.sync(write(tmp_path / "metrics.jsonl", log_rows(10)))
    reporter.close()
    *members, total = histories(tmp_path)
    assert total["stats"] > 0
    assert [run["stats"] for run in members] == [0, 0, 0]


def test_only_lines_before_the_offset_are_sent_and_a_group_is_not_torn(tmp_path, start):
    first, second = log_rows(10), log_rows(20)
    write(tmp_path / "metrics.jsonl", first, second)
    lengths = [len(encode_row(row)) for row in first + second]
    reporter = start()
    for lines in (2, 3, 4):
        reporter.sync(sum(lengths[:lines]))
    reporter.close()
    *members, total = histories(tmp_path)
    assert [len(run["history"]) for run in members] == [2, 1, 1]
    assert [row["loss/max"] for row in total["history"]] == [10.5, 20.0]


def test_a_frozen_member_is_marked(tmp_path, start):
    frozen = [make_rows(step, loss=1.0, frozen=[False, True, False]) for step in (10, 20)]
    reporter = start()
    reporter.sync(write(tmp_path / "metrics.jsonl", *frozen))
    reporter.close()
    *members, total = histories(tmp_path)
    assert [run["tags"] for run in members] == [["catch"], ["catch", "frozen"], ["catch"]]
    assert [bool(run["summary"]["frozen"]) for run in members] == [False, True, False]
    assert [row["frozen"] for row in members[1]["history"]] == [1, 1]
    assert [row["members_frozen"] for row in total["history"]] == [1, 1]


def test_videos(tmp_path, start):
    video = tmp_path / "video.gif"
    video.write_bytes(b"GIF89a")
    for _ in range(2):  # the second time as after a crash: it is made again
        reporter = start()
        reporter.sync(write(tmp_path / "metrics.jsonl", log_rows(10)))
        reporter.video(1, "open_loop", video, 10)
        reporter.video(1, "open_loop", tmp_path / "gone.gif", 20)
        reporter.close()
    assert len(start.warnings) == 2 and "gone.gif does not exist" in start.warnings[0]
    rows = histories(tmp_path)[1]["history"]
    assert [row["_step"] for row in rows] == [0, 1]
    # Its parts are keys of their own in the file.
    assert rows[1]["env_step"] == 10 and rows[1]["frame"] == 40
    assert any(key.startswith("open_loop") for key in rows[1])
    assert list((tmp_path / "service").rglob("*.gif"))


@pytest.mark.parametrize("sent_before", [1, 2, 3, 4])
def test_resume_after_a_cut_sends_no_row_twice_and_misses_none(tmp_path, start, sent_before):
    """The file goes back to env step 10 and its lines are written again, with other rates."""
    path = tmp_path / "metrics.jsonl"
    groups = [log_rows(10), log_rows(20), eval_rows(20), log_rows(30)]
    reporter = start()
    reporter.sync(write(path, *groups[:sent_before]))
    reporter.close()
    again = [log_rows(10), log_rows(20, rate=12.125), eval_rows(20), log_rows(30, rate=9.0)]
    reporter = start()
    reporter.sync(write(path, *again))
    reporter.close()
    assert start.warnings == []
    *members, total = histories(tmp_path)
    rows = [row for rows in groups[:sent_before] + again[sent_before:] for row in rows]
    for member, run in enumerate(members):
        assert run["files"] == 2
        assert without_step(run["history"]) == expected(rows, member)
        assert [row["_step"] for row in run["history"]] == [0, 1, 2, 3]
    assert [row["env_step"] for row in total["history"]] == [10, 20, 20, 30]


def test_another_group_gets_everything_in_new_runs(tmp_path, start):
    size = write(tmp_path / "metrics.jsonl", log_rows(10), log_rows(20))
    for group in ("sweep", "other"):
        reporter = start(group=group)
        reporter.sync(size)
        reporter.close()
    wandb.teardown()
    runs = read_histories(tmp_path / "service").values()
    assert len(runs) == 8
    assert all(len(run["history"]) == 2 for run in runs)
    assert sorted(run["group"] for run in runs) == ["other"] * 4 + ["sweep"] * 4


def test_members_of_one_seed_have_names_of_their_own(tmp_path, start):
    start(member_configs=[{"seed": 1}, {"seed": 1}, {"seed": 2}]).close()
    names = [run["name"] for run in histories(tmp_path)]
    assert names == ["sweep/seed1-member0", "sweep/seed1-member1", "sweep/seed2", "sweep/aggregate"]


def test_bad_arguments(start):
    with pytest.raises(UsageError, match="mode is 'onlin'"):
        start(mode="onlin")
    with pytest.raises(UsageError, match="member_configs is empty"):
        start(member_configs=[])


def test_a_damaged_state_file_ends_reporting(tmp_path, start):
    (tmp_path / "wandb.json").write_text("{")
    reporter = start()
    reporter.close(timeout=10)
    (warning,) = start.warnings
    assert "wandb.json cannot be read" in warning
    assert not (tmp_path / "service" / "wandb").exists()


class FakeRun:
    """Records what a reporter does; `failing` names the method that raises."""

    def __init__(self, failing=None):
        self.rows, self.summary, self.tags = [], {}, ()
        self._failing = failing

    def _do(self, name):
        if self._failing == name:
            raise RuntimeError(f"{name} is broken")

    def define_metric(self, *_, **__):
        pass

    def log(self, values, step, commit):
        self._do("log")
        self.rows.append(values)

    def status(self):
        self._do("status")

    def finish(self):
        self._do("finish")


@pytest.mark.parametrize("failing", ["init", "log", "status", "finish"])
def test_an_error_of_wandb_is_one_warning(tmp_path, start, monkeypatch, failing):
    def init(**_):
        if failing == "init":
            raise wandb.CommError("no\n  entity")
        return FakeRun(failing)

    monkeypatch.setattr(wandb, "init", init)
    size = write(tmp_path / "metrics.jsonl", log_rows(10))
    reporter = start()
    for _ in range(3):
        reporter.sync(size)
    reporter.close(timeout=10)
    reporter.sync(size)
    reporter.close(timeout=10)
    (warning,) = start.warnings
    reason = "CommError: no entity" if failing == "init" else f"{failing} is broken"
    assert reason in warning and "training goes on" in warning
    noted = json.loads((tmp_path / "wandb.json").read_text())
    # What failed is sent by the next process; what was sent is not sent again.
    assert (noted["env_step"], noted["steps"]) == (
        (10, [1] * 4) if failing == "finish" else (-1, [0] * 4)
    )


def test_wandb_that_is_not_installed(start, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    start().close(timeout=10)
    (warning,) = start.warnings
    assert "ModuleNotFoundError" in warning


@pytest.mark.parametrize("hanging", ["init", "finish"])
def test_close_does_not_wait_longer_than_it_may(tmp_path, start, monkeypatch, hanging):
    release = threading.Event()
    run = FakeRun()
    monkeypatch.setattr(run, "finish", release.wait)
    fake = {"init": lambda **_: release.wait(), "finish": lambda **_: run}[hanging]
    monkeypatch.setattr(wandb, "init", fake)
    reporter = start()
    reporter.sync(write(tmp_path / "metrics.jsonl", log_rows(10)))
    began = time.monotonic()
    reporter.close(timeout=0.5)
    assert 0.4 < time.monotonic() - began < 3
    (warning,) = start.warnings
    assert "not finished within 0.5 s" in warning
    release.set()


def test_a_service_out_of_reach_is_noticed_in_time(tmp_path, start, monkeypatch):
    for name, value in (UNREACHABLE | {"WANDB_INIT_TIMEOUT": "1"}).items():
        monkeypatch.setenv(name, value)
    start(mode="online")
    wait_for(lambda: start.warnings)
    assert "CommError" in start.warnings[0] and "127.0.0.1:9" in start.warnings[0]
