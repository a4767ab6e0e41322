"""Members that cannot be extracted, joined or added: a clear error, and nothing left behind."""

import os
import shutil

import numpy as np
import pytest
from commands import forked_command
from member_runs import add_members, change_host, extract, join, list_members, make_env

from dreamer_jax import config as config_lib
from dreamer_jax import evaluate, train
from dreamer_jax.errors import UsageError
from dreamer_jax.replay.ring import HIGH_WATER_FILE
from dreamer_jax.report.metrics_log import read_metrics
from dreamer_jax.run.workdir import WorkDir


def change_config(workdir, **changes):
    config = WorkDir(workdir).read_config()
    config.update(changes)
    WorkDir(workdir).config.write_text(config_lib.to_json(config))


def refuse(call, workdir, match, error=UsageError):
    """Assert that a call raises and leaves nothing in the directory it would write to."""
    before = sorted(os.listdir(workdir))
    with pytest.raises(error, match=match):
        call()
    assert sorted(os.listdir(workdir)) == before


@pytest.mark.parametrize("members", [[3], [-1], [0, 0], []])
def test_members_that_do_not_exist(killed_run, tmp_path, members):
    choices = r"0 \(seed 7\), 1 \(seed 3\), 2 \(seed 5\)"
    refuse(lambda: extract(killed_run, members, tmp_path / "new"), tmp_path, choices)


def test_no_run_and_no_checkpoint(killed_copy, tmp_path):
    new = tmp_path / "new"
    refuse(lambda: list_members(tmp_path / "no"), tmp_path, "no run in", FileNotFoundError)
    refuse(lambda: add_members(tmp_path / "no", [1], new), tmp_path, "no run", FileNotFoundError)
    shutil.rmtree(killed_copy / "checkpoints")
    refuse(lambda: extract(killed_copy, [0], new), tmp_path, "no checkpoint in", FileNotFoundError)


def test_a_target_that_cannot_be(killed_run, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("precious")
    (tmp_path / "file").write_text("")
    for target in ("thesis", "file"):
        refuse(
            lambda t=target: extract(killed_run, [0], tmp_path / t),
            tmp_path,
            "empty or does not exist",
        )
    for target in (killed_run, killed_run / "sub", killed_run.parent / "x" / ".." / "killed"):
        refuse(lambda t=target: extract(killed_run, [0], t), killed_run, "outside of")
    refuse(lambda: join(tmp_path / "a", killed_run, killed_run), killed_run, "outside of")
    assert (tmp_path / "thesis" / "thesis.tex").read_text() == "precious"


def test_an_empty_target_is_taken(killed_run, tmp_path):
    (tmp_path / "empty").mkdir()
    extract(killed_run, [1], tmp_path / "empty")
    assert [r["seed"] for r in list_members(tmp_path / "empty")] == [3]


def test_adding_what_cannot_be_added(killed_run, finished_run, tmp_path):
    def add(workdir, seeds, match):
        refuse(lambda: add_members(workdir, seeds, tmp_path / "new"), tmp_path, match)

    add(killed_run, [1], "is not finished")
    add(finished_run, [1, 3], r"seeds are \[1, 3\]; allowed: .* it has \[3, 5, 7\]")
    add(finished_run, [1, 1], "config.seeds is")
    add(finished_run, [-1], "config.seeds is")
    add(finished_run, [], "config.seeds is")


def test_runs_that_do_not_fit_together(killed_run, finished_run, tmp_path):
    a, b, new = tmp_path / "a", tmp_path / "b", tmp_path / "new"
    extract(killed_run, [0], a)
    shared = r"has the members \['seed 7'\], which .* has too"
    refuse(lambda: join(killed_run, a, new), tmp_path, shared)
    extract(finished_run, [1], b)
    refuse(lambda: join(a, b, new), tmp_path, "not at the same step: {'env_step': 150.*240")
    change_config(b, lambda_=0.9)
    refuse(lambda: join(a, b, new), tmp_path, "different configs:\n  lambda_: 0.95 -> 0.9")


def test_keys_that_may_differ_are_the_firsts(killed_run, tmp_path):
    extract(killed_run, [0], tmp_path / "a")
    extract(killed_run, [1], tmp_path / "b")
    change_config(tmp_path / "b", steps=300, checkpoint_keep=5)
    join(tmp_path / "a", tmp_path / "b", tmp_path / "new")
    assert WorkDir(tmp_path / "new").read_config().steps == 200


def test_a_run_stopped_in_the_middle_of_a_step_is_not_joined(killed_run, killed_copy, tmp_path):
    """Nor are members added to one, which a finished run cannot be."""
    change_host(killed_copy, lambda host: host | {"due": ["evaluation"]})
    change_config(killed_copy, seeds=(1, 2, 4))
    due = r"stopped in the middle .* \['evaluation'\]"
    refuse(lambda: join(killed_run, killed_copy, tmp_path / "new"), tmp_path, due)
    change_config(killed_copy, steps=150)
    WorkDir(killed_copy).write_summary({"env_step": 150, "update": 1, "members": []})
    refuse(lambda: add_members(killed_copy, [8], tmp_path / "new"), tmp_path, due)


def test_a_finished_run_and_an_unfinished_one_are_not_joined(killed_run, killed_copy, tmp_path):
    change_config(killed_copy, seeds=(1, 2, 4))
    WorkDir(killed_copy).write_summary({"env_step": 150, "update": 1, "members": []})
    one = "only one of .* is finished"
    refuse(lambda: join(killed_run, killed_copy, tmp_path / "new"), tmp_path, one)


def test_a_replay_that_is_gone(killed_copy, finished_run, tmp_path):
    shutil.rmtree(killed_copy / "replay")
    refuse(lambda: extract(killed_copy, [0], tmp_path / "new"), tmp_path, "replay.* is missing")
    ended = shutil.copytree(finished_run, tmp_path / "ended")
    shutil.rmtree(ended / "replay")
    extract(ended, [0], tmp_path / "new")
    assert evaluate(tmp_path / "new", episodes=1, make_env=make_env)["members"][0]["seed"] == 7
    config = WorkDir(tmp_path / "new").read_config()
    config.steps = 300
    with pytest.raises(UsageError, match="replay is gone"):
        train(config, tmp_path / "new", make_env)


def test_a_replay_in_memory(killed_copy, tmp_path):
    shutil.rmtree(killed_copy / "replay")
    change_config(killed_copy, replay={"storage": "memory"})
    refuse(lambda: extract(killed_copy, [0], tmp_path / "new"), tmp_path, "in\\s+memory")
    WorkDir(killed_copy).write_summary(
        {"finished": True, "env_step": 150, "update": 1, "members": None}
    )
    extract(killed_copy, [0], tmp_path / "new")
    assert not (tmp_path / "new" / "replay").exists()


def test_a_damaged_replay_leaves_nothing_behind(killed_copy, tmp_path):
    os.truncate(killed_copy / "replay" / "0" / "reward.bin", 100)
    refuse(lambda: extract(killed_copy, [0], tmp_path / "new"), tmp_path, "reward.bin is damaged")


def test_a_run_that_went_on_too_far(killed_copy, tmp_path):
    marks = np.fromfile(killed_copy / "replay" / "0" / HIGH_WATER_FILE, np.int64)
    (marks + 10**6).tofile(killed_copy / "replay" / "0" / HIGH_WATER_FILE)
    refuse(lambda: extract(killed_copy, [0], tmp_path / "new"), tmp_path, "moved on too far")


def test_lines_of_metrics_that_are_damaged(killed_copy, tmp_path, caplog):
    path = killed_copy / "metrics.jsonl"
    first, *others = path.read_bytes().splitlines(keepends=True)
    for line in (b"?", b"[]", b"{}"):
        path.write_bytes(b"".join([line.ljust(len(first) - 1) + b"\n", *others]))
        refuse(lambda: extract(killed_copy, [0], tmp_path / "new"), tmp_path, "line 1 is no row")
        assert list_members(killed_copy)[2]["train_return"] is not None
    assert "line 1" in caplog.text


def test_metrics_that_were_changed(killed_copy, tmp_path):
    os.truncate(killed_copy / "metrics.jsonl", 100)
    refuse(lambda: extract(killed_copy, [0], tmp_path / "new"), tmp_path, "was changed since")


def test_a_full_disk(killed_run, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    refuse(lambda: extract(killed_run, [0], tmp_path / "new"), tmp_path, "has 1.0 kB free")


def test_a_damaged_checkpoint_is_passed_over(finished_run, tmp_path):
    run = shutil.copytree(finished_run, tmp_path / "run")
    file = max((run / "checkpoints" / "240").rglob("*"), key=lambda p: p.stat().st_size)
    os.truncate(file, 10)
    extract(run, [0], tmp_path / "new")
    assert [r["env_step"] for r in list_members(tmp_path / "new")] == [200]
    assert max(row["env_step"] for row in read_metrics(tmp_path / "new" / "metrics.jsonl")) == 200
    assert not (tmp_path / "new" / "summary.json").exists()
    refuse(lambda: add_members(run, [1], tmp_path / "more"), tmp_path, "is of env step 200, not")


def test_mistakes_on_the_command_line(early_run, tmp_path):
    run, to = f"--workdir={early_run}", f"--to={tmp_path / 'new'}"
    for flags, message in (
        (["--extract=9", to], "members are [9]; allowed"),
        (["--extract=1", "--add=3", to], "--add: not allowed with argument --extract"),
    ):
        status, out, err = forked_command("members", run, *flags, cache=tmp_path)
        assert status == 2 and message in err, err
        assert "Traceback" not in err and not out
