"""Reading a run and reporting it to W&B, offline, with the real wandb: what its files hold.

Nothing here reaches a network.
"""

import json
import threading

import pytest
import wandb
import yaml
from commands import ROOT
from conftest import make_tiny_config
from reported_runs import (
    SEEDS,
    UNREACHABLE,
    append,
    eval_rows,
    histories,
    log_rows,
    make_info,
    make_rows,
    write,
)
from wandb_files import read_histories

from dreamer_jax.report.metrics_log import encode_row
from dreamer_jax.report.video import open_loop_path
from dreamer_jax.report.wandb.__main__ import send
from dreamer_jax.report.wandb.outbox import PendingRows
from dreamer_jax.report.wandb.process import run_group, shorten
from dreamer_jax.run.reporter import _run_info
from dreamer_jax.run.workdir import WorkDir


@pytest.fixture
def report(tmp_path, monkeypatch):
    """Return a function that reports the run in `tmp_path` as far as it has come."""
    warnings = []
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")  # restored: the reader sets it
    ended = threading.Event()
    ended.set()

    def report(**changes):
        # The reader sets what W&B shows as its command.
        with monkeypatch.context() as patch:
            patch.setattr("sys.argv", [])
            send(tmp_path, make_info(**changes), ended, warnings.append)

    report.warnings = warnings
    yield report
    wandb.teardown()


def expected(rows, member):
    """Return a member's history: its rows without its identity and without missing values."""
    return [
        {k: v for k, v in row.items() if k not in ("member", "seed") and v is not None}
        for row in rows
        if row["member"] == member
    ]


def without_step(history):
    return [{key: value for key, value in row.items() if key != "_step"} for row in history]


def test_three_members_leave_their_rows_and_the_aggregate(tmp_path, report):
    groups = [log_rows(10), eval_rows(10), log_rows(20)]
    write(tmp_path / "metrics.jsonl", *groups)
    report()
    assert report.warnings == []
    assert len(list(tmp_path.glob("wandb/offline-run-*"))) == 4
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
    # Only the aggregate holds the load of the machine.
    assert total["stats"] > 0
    assert [run["stats"] for run in members] == [0, 0, 0]


def test_a_frozen_member_is_marked(tmp_path, report):
    frozen = [make_rows(step, loss=1.0, frozen=[False, True, False]) for step in (10, 20)]
    write(tmp_path / "metrics.jsonl", *frozen)
    report()
    *members, total = histories(tmp_path)
    assert [run["tags"] for run in members] == [["catch"], ["catch", "frozen"], ["catch"]]
    assert [bool(run["summary"]["frozen"]) for run in members] == [False, True, False]
    assert [row["frozen"] for row in members[1]["history"]] == [1, 1]
    assert [row["members_frozen"] for row in total["history"]] == [1, 1]


def test_a_video_is_sent_once_with_its_member(tmp_path, report):
    videos = tmp_path / "videos"
    videos.mkdir()
    write(tmp_path / "metrics.jsonl", log_rows(10))
    (videos / "episode.gif").write_bytes(b"GIF89a")
    for env_step in (10, 10, 20):  # the second time as after a crash: it is made again
        open_loop_path(videos, "image", env_step, member=1).write_bytes(b"GIF89a")
        report()
    assert report.warnings == []
    *members, total = histories(tmp_path)
    assert [len(run["history"]) for run in (*members, total)] == [1, 3, 1, 1]
    rows = members[1]["history"]
    assert [row["_step"] for row in rows] == [0, 1, 2]
    assert [(row["env_step"], row["frame"]) for row in rows] == [(10, 40), (10, 40), (20, 80)]
    # Its parts are keys of their own in the file.
    assert all(any(key.startswith("open_loop/image") for key in row) for row in rows[1:])
    assert len(list(tmp_path.glob("wandb/*/files/**/*.gif"))) == 2


def test_resume_after_a_cut_sends_no_row_twice_and_misses_none(tmp_path, report):
    """The file returns to env step 10, and its lines are written again with other rates."""
    path = tmp_path / "metrics.jsonl"
    groups = [log_rows(10), log_rows(20), eval_rows(20), log_rows(30)]
    write(path, *groups[:2])
    report()
    rewritten = [log_rows(10), log_rows(20, rate=12.125), eval_rows(20), log_rows(30, rate=9.0)]
    write(path, *rewritten)
    report()
    assert report.warnings == []
    *members, total = histories(tmp_path)
    rows = [row for rows in groups[:2] + rewritten[2:] for row in rows]
    for member, run in enumerate(members):
        assert run["files"] == 2
        assert without_step(run["history"]) == expected(rows, member)
        assert [row["_step"] for row in run["history"]] == [0, 1, 2, 3]
    assert [row["env_step"] for row in total["history"]] == [10, 20, 20, 30]


def test_another_group_receives_everything_in_new_runs(tmp_path, report):
    write(tmp_path / "metrics.jsonl", log_rows(10), log_rows(20))
    for group in ("sweep", "other"):
        report(group=group)
    runs = read_histories(tmp_path / "wandb").values()
    assert len(runs) == 8
    assert all(len(run["history"]) == 2 for run in runs)
    assert sorted(run["group"] for run in runs) == ["other"] * 4 + ["sweep"] * 4


def test_members_of_one_seed_have_names_of_their_own(tmp_path, report):
    write(tmp_path / "metrics.jsonl")
    report(members=[{"seed": 1}, {"seed": 1}, {"seed": 2}])
    names = [run["name"] for run in histories(tmp_path)]
    assert names == ["sweep/seed1-member0", "sweep/seed1-member1", "sweep/seed2", "sweep/aggregate"]


def test_a_damaged_state_file_ends_reporting(tmp_path, report):
    (tmp_path / "wandb.json").write_text("{")
    with pytest.raises(ValueError, match="wandb.json cannot be read"):
        report()
    assert not (tmp_path / "wandb").exists()


class FakeRun:
    """Records what a reader does; `failing` names the method that raises."""

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


@pytest.mark.parametrize("failing", ["log", "status", "finish"])
def test_what_failed_is_not_recorded_as_sent(tmp_path, report, monkeypatch, failing):
    monkeypatch.setattr(wandb, "init", lambda **_: FakeRun(failing))
    write(tmp_path / "metrics.jsonl", log_rows(10))
    with pytest.raises(RuntimeError, match=f"{failing} is broken"):
        report()
    recorded = json.loads((tmp_path / "wandb.json").read_text())
    sent = (10, [1] * 4) if failing == "finish" else (-1, [0] * 4)
    assert (recorded["env_step"], recorded["steps"]) == sent


def test_a_stop_button_is_refused(tmp_path, report, monkeypatch):
    stops = []

    def init(settings, **_):
        stops.append(settings.stop_fn)
        return FakeRun()

    monkeypatch.setattr(wandb, "init", init)
    write(tmp_path / "metrics.jsonl", log_rows(10))
    report()
    stops[1]()
    (warning,) = report.warnings
    assert "sweep/seed6 was requested and is ignored" in warning


def test_a_service_out_of_reach_is_noticed(tmp_path, report, monkeypatch):
    for name, value in (UNREACHABLE | {"WANDB_INIT_TIMEOUT": "1"}).items():
        monkeypatch.setenv(name, value)
    write(tmp_path / "metrics.jsonl", log_rows(10))
    with pytest.raises(wandb.CommError, match="127.0.0.1:9"):
        report(mode="online")


def read_groups(pending):
    return [([row["member"] for row in g.rows], g.env_step, g.lines) for g in pending.read()]


def test_a_group_is_read_when_it_is_complete(tmp_path):
    path = tmp_path / "metrics.jsonl"
    first, second = log_rows(10), eval_rows(10)
    write(path, first, second[:1])
    pending = PendingRows(path, num_members=3, place=(-1, 0))
    assert read_groups(pending) == [([0, 1, 2], 10, 3)]
    append(path, second[1:2])
    with open(path, "ab") as file:
        file.write(encode_row(second[2])[:-1])
    assert read_groups(pending) == []
    with open(path, "ab") as file:
        file.write(b"\n")
    assert read_groups(pending) == [([0, 1, 2], 10, 6)]
    assert read_groups(pending) == []


def test_an_incomplete_group_is_read_when_others_follow(tmp_path):
    """As after a full disk, which has lost lines."""
    path = tmp_path / "metrics.jsonl"
    write(path, log_rows(10)[:2], log_rows(20), eval_rows(20)[1:], log_rows(30)[:1])
    pending = PendingRows(path, num_members=3, place=(-1, 0))
    assert read_groups(pending) == [([0, 1], 10, 2), ([0, 1, 2], 20, 3), ([1, 2], 20, 5)]


@pytest.mark.parametrize("sent", [0, 1, 2, 3, 4])
def test_rows_up_to_the_place_are_skipped(tmp_path, sent):
    path = tmp_path / "metrics.jsonl"
    write(path, log_rows(10), log_rows(20), eval_rows(20), log_rows(30))
    places = [(10, 3), (20, 3), (20, 6), (30, 3)]
    pending = PendingRows(path, num_members=3, place=[(-1, 0), *places][sent])
    assert read_groups(pending) == [([0, 1, 2], *place) for place in places[sent:]]


@pytest.mark.parametrize("kept", [0, 1, 2])
@pytest.mark.parametrize("written", [0, 1, 2, 3, 4])
def test_a_file_cut_back_while_it_is_read_is_read_once(tmp_path, kept, written):
    """A resumed run has cut it; its new lines may reach beyond the reader's byte by now."""
    path = tmp_path / "metrics.jsonl"
    steps = [10, 20, 30, 40, 50, 60]
    write(path, *(log_rows(step) for step in steps[:3]))
    pending = PendingRows(path, num_members=3, place=(-1, 0))
    read = read_groups(pending)
    rewritten = [log_rows(step, rate=123.456) for step in steps[kept:]]
    write(path, *(log_rows(step) for step in steps[:kept]), *rewritten[:written])
    read += read_groups(pending)
    append(path, *rewritten[written:])
    read += read_groups(pending)
    assert read == [([0, 1, 2], step, 3) for step in steps]


def test_under_an_agent_the_aggregate_is_its_run(tmp_path, report, monkeypatch):
    """The environment is that of a process which `wandb agent` starts."""
    parameters = tmp_path / "sweep-run1.yaml"
    parameters.write_text("wandb_version: 1\nconfig.kl_scale:\n  value: 0.3\n")
    agent = {"SWEEP_ID": "sweep1", "RUN_ID": "run1", "SWEEP_PARAM_PATH": str(parameters)}
    for name, value in agent.items() | {("PROJECT", "swept")}:
        monkeypatch.setenv(f"WANDB_{name}", value)
    write(tmp_path / "metrics.jsonl", log_rows(10))
    report()
    assert report.warnings == []
    state = json.loads((tmp_path / "wandb.json").read_text())
    assert state["ids"][-1] == "run1" and state["target"]["project"] == "swept"
    runs = read_histories(tmp_path)
    assert {name: run["sweep"] for name, run in runs.items()} == {
        name: "sweep1" if name == "run1" else "" for name in state["ids"]
    }
    assert runs["run1"]["config"]["config.kl_scale"] == 0.3
    assert runs["run1"]["job_type"] == "aggregate" and len(runs["run1"]["history"]) == 1
    # Afterwards the rest of the run can be sent by hand, to the same runs.
    write(tmp_path / "metrics.jsonl", log_rows(10), log_rows(20))
    for name in agent:
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    report(project="swept")
    assert json.loads((tmp_path / "wandb.json").read_text())["ids"] == state["ids"]


def test_the_shipped_sweep_chooses_config_keys_and_maximises_what_is_reported():
    from wandb.sdk.launch.sweeps import utils

    from dreamer_jax.report.aggregates import aggregate
    from dreamer_jax.schema import KEYS

    sweep = yaml.safe_load((ROOT / "configs" / "wandb_sweep.yaml").read_text())
    assert {name.removeprefix("config.") for name in sweep["parameters"]} <= KEYS.keys()
    assert sweep["metric"]["name"] in aggregate(eval_rows(10))
    chosen = {"args": {name: {"value": 0.3} for name in sweep["parameters"]}}
    arguments = utils.create_sweep_command_args(chosen)["args"]
    command = utils.create_sweep_command(sweep["command"])
    assert command[-1] == "${args}"  # in their place the agent puts
    assert arguments == ["--config.kl_scale=0.3", "--config.actor_entropy=0.3"]


def test_a_renamed_directory_keeps_its_group(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    assert run_group(first, None) == "first" and run_group(first, "given") == "given"
    make_info(group="first").save(first)
    first.rename(second)
    (tmp_path / "link").symlink_to(second)
    assert run_group(second, None) == run_group(tmp_path / "link", None) == "first"
    assert run_group(second, "other") == "other"
    (second / "wandb" / "run.json").write_text("{")
    assert run_group(second, None) == "second"


def test_what_w_and_b_would_refuse_is_shortened(tmp_path):
    assert shorten("catch", 64) == "catch" and shorten("a\udcff", 64) == "a?"
    long = [shorten("gym:" + "x" * 70 + end, 64) for end in "ab"]
    assert [len(tag) for tag in long] == [64, 64] and long[0] != long[1]
    config = make_tiny_config(task="gym:" + "x" * 70, wandb={"tags": "a, b,,a," + "y" * 65})
    info = _run_info(config, WorkDir(tmp_path / ("z" * 200)), config.task)
    assert info.tags[1:5] == ["dreamer", "reconstruction", "a", "b"] and len(info.tags) == 6
    assert max(map(len, info.tags)) == 64 and len(info.group) == 100
    wandb.Settings(run_tags=info.tags, run_group=info.group)  # raises what `wandb.init` would
