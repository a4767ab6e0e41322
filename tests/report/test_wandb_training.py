"""Runs that report to W&B offline: its files hold what metrics.jsonl holds, and no failure of W&B
reaches the run."""

import json
import os
import signal
import time

import pytest
from killing import Run, assert_same_run, catch_config, rows
from reported_runs import UNREACHABLE, service_process, wait_for
from wandb_files import read_histories

from dreamer_jax import train
from dreamer_jax.report.metrics_log import read_metrics

LEFT_OUT = {"member", "seed"}  # of a row: they are what the run is


def wandb_config(**changes):
    config = catch_config(seeds=3, steps=200, **changes)
    config.wandb.mode = "offline"
    return config


def finish(config, workdir):
    """Run to the end in another process. Return what it printed."""
    with Run(config, workdir) as run:
        run.finish()
        return run.text()


def assert_reported(workdir, config):
    """Every row of metrics.jsonl is once, in order, in the history of its member."""
    runs = read_histories(workdir / "wandb")
    state = json.loads((workdir / "wandb.json").read_text())
    assert set(runs) == set(state["ids"]) and len(runs) == config.seeds + 1
    *members, aggregate = (runs[run_id] for run_id in state["ids"])
    assert {run["group"] for run in runs.values()} == {workdir.name}
    written = read_metrics(workdir / "metrics.jsonl")
    for member, run in enumerate(members):
        expected = [row for row in written if row["member"] == member]
        history = [row for row in run["history"] if not any("open_loop/" in key for key in row)]
        assert len(history) == len(expected) > 5
        for found, row in zip(history, expected, strict=True):
            values = {k: v for k, v in row.items() if k not in LEFT_OUT and v is not None}
            values = {k: v for k, v in values.items() if not k.endswith("_per_s")}
            assert values.items() <= found.items()
        assert run["config"]["seed"] == member and run["config"]["task"] == "catch"
        assert run["tags"] == ["catch", "dreamer", "reconstruction"]
    steps = [row["env_step"] for row in aggregate["history"]]
    assert steps == [row["env_step"] for row in expected]
    last = [row["eval_return"] for row in written[-len(members) :]]
    assert aggregate["history"][-1]["eval_return/max"] == max(last)
    return members, aggregate


def sent_step(workdir):
    """Return the env step of the last rows that have been sent."""
    state = workdir / "wandb.json"
    return json.loads(state.read_text())["env_step"] if state.exists() else None


@pytest.mark.slow
def test_a_run_of_three_members_leaves_four_runs(tmp_path):
    config = wandb_config(video_every=100)
    finish(config, tmp_path / "run")
    directories = [path for path in (tmp_path / "run" / "wandb").glob("offline-run-*")]
    assert len(directories) == 4
    members, _ = assert_reported(tmp_path / "run", config)
    assert all(any("open_loop/" in key for key in run["summary"]) for run in members)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_stopped_and_resumed_run_is_reported_once(tmp_path, number):
    config = wandb_config()
    with Run(config, tmp_path / "run") as run:
        assert run.wait_until(lambda: run.records() > 130), run.text()
        assert run.signal(number) == (-number if number == signal.SIGKILL else 0), run.text()
    finish(config, tmp_path / "run")
    assert_reported(tmp_path / "run", config)


@pytest.mark.slow
def test_a_killed_service_does_not_reach_the_run(tmp_path):
    """The run continues with one warning; after its resume W&B has everything."""
    config = wandb_config()
    reference = wandb_config()
    reference.wandb.mode = "disabled"
    train(reference, tmp_path / "reference")
    with Run(config, tmp_path / "run") as run:
        assert run.wait_until(lambda: run.records() > 50), run.text()
        # The service writes to disk every second; what it has not written is lost with it.
        run.process.send_signal(signal.SIGSTOP)
        wait_for(lambda: sent_step(run.work.path) == rows(run.work.path)[-1]["env_step"], 60)
        time.sleep(2)
        os.kill(service_process(run.process.pid), signal.SIGKILL)
        run.process.send_signal(signal.SIGCONT)
        run.finish()
        assert run.text().count("W&B:") == 1
    assert_same_run(tmp_path / "run", tmp_path / "reference")
    config.steps = 220
    finish(config, tmp_path / "run")
    assert_reported(tmp_path / "run", config)


@pytest.mark.slow
def test_a_service_out_of_reach_does_not_reach_the_run(tmp_path, monkeypatch):
    for name, value in UNREACHABLE.items():
        monkeypatch.setenv(name, value)
    config = wandb_config()
    config.wandb.mode = "online"
    assert finish(config, tmp_path / "run").count("W&B:") == 1
    assert [row["env_step"] for row in rows(tmp_path / "run") if "eval_return" in row][-1] == 200
