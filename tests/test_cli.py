"""The command line as a user meets it: real processes, their output and exit status."""

import json

import pytest
from commands import CATCH, command, forked_command


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("train", [CATCH, "--config.horizn=3"], "config.horizn does not exist. Did you mean"),
        ("train", [CATCH, "--config.horizon=abc"], "horizon=abc"),
        ("train", [CATCH, "--config.horizon=1", "--dry_run"], "config.horizon is 1; allowed"),
        ("train", [CATCH, "--config.task=atari:pnog", "--dry_run"], "Did you mean 'pong'"),
        ("train", ["--config=configs/atari.py"], "needs a game"),
        (
            "train",
            ["--config=configs/ablations.py:pong,no_layernorm"],
            "mean 'no_layer_norm'",
        ),
        ("train", [CATCH, "--config.behavior=planet", "--dry_run"], "which plans continuous act"),
        ("train", ["--config=configs/none.py", "--dry_run"], "configs/none.py"),
        ("train", [CATCH], "--workdir is missing"),
        ("evaluate", ["--workdir=/nonexistent"], "no run in /nonexistent"),
        ("evaluate", ["--workdir=.", "--episodes=0"], "episodes"),
        ("benchmark", [CATCH, "--conv=matmull"], "Did you mean 'matmul'"),
        ("benchmark", [CATCH, "--members=1,two"], "--members is '1,two'; allowed"),
    ],
)
def test_mistakes_are_one_message_and_status_2(tmp_path, script, arguments, message):
    status, out, err = forked_command(script, *arguments, cache=tmp_path)
    assert status == 2, err
    assert message in err
    assert "Traceback" not in err and not out
    assert len(err.strip().splitlines()) <= 4, err


def test_dry_run_prints_one_json_object(tmp_path):
    status, out, err = command("train", CATCH, "--config.seeds=3,5", "--dry_run", cache=tmp_path)
    assert status == 0, err
    plan = json.loads(out)
    assert plan["seeds"] == [3, 5]
    assert plan["parameters"]["world_model"] > 0


@pytest.mark.slow
def test_train_then_evaluate(tmp_path):
    workdir = f"--workdir={tmp_path / 'run'}"
    small = ["--config.steps=150", "--config.seeds=1", "--config.replay.storage=memory"]
    status, out, err = command("train", CATCH, workdir, *small, cache=tmp_path)
    assert status == 0, err
    assert '"env_step": 150' in out
    assert "replay grows to" in out
    status, out, err = command("evaluate", workdir, "--episodes=2", cache=tmp_path)
    assert status == 0, err
    assert json.loads(out)["members"][0]["eval_episodes"] == 2


@pytest.mark.slow
def test_benchmark_prints_a_table_and_writes_its_rows(tmp_path):
    file = tmp_path / "rows.json"
    options = ["--members=1,2", "--synthetic", "--repeats=1", f"--json={file}"]
    status, out, err = command("benchmark", CATCH, *options, cache=tmp_path)
    assert status == 0, err
    assert "member updates/s" in out
    assert [row["members"] for row in json.loads(file.read_text())] == [1, 2]
