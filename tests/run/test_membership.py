"""Members extracted, joined and added: the same runs as before, file by file."""

import json
import shutil
from functools import partial

import jax
import numpy as np
import pytest
from commands import command
from killing import rows
from member_runs import (
    add_members,
    change_host,
    extract,
    join,
    killed_after,
    list_members,
    make_env,
    newest,
)

from dreamer_jax import evaluate, load, train
from dreamer_jax.report.metrics_log import read_metrics
from dreamer_jax.run import members as members_lib
from dreamer_jax.run.workdir import WorkDir


def assert_trees_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def replay_bytes(workdir):
    files = (path for path in (workdir / "replay").rglob("*") if path.is_file())
    return {path.relative_to(workdir): path.read_bytes() for path in files}


def metrics_of(workdir, seed):
    """Return one seed's rows without its number and the rates."""
    return [
        {k: v for k, v in row.items() if k != "member"}
        for row in rows(workdir)
        if row["seed"] == seed
    ]


def sequence_of(path):
    return [(r["env_step"], "eval_return" in r, r["member"], r["seed"]) for r in read_metrics(path)]


def host_data(*seeds):
    """Host data whose records hold what no component saves today."""
    return {
        "env_step": 4, "update": 2, "due": [], "new": "kept",
        "members": [
            {"any": {"new": seed}, "summary": {"member": m, "seed": seed}}
            for m, seed in enumerate(seeds)
        ],
    }  # fmt: skip


def test_whatever_a_component_saves_stays_with_its_member():
    joined = members_lib.join_host([host_data(5, 3), host_data(8)], [{"l": 0}, {"l": 1}, {"l": 2}])
    assert joined == host_data(5, 3, 8) | {
        "members": [
            {"any": {"new": seed}, "summary": {"member": m, "seed": seed, "l": m}}
            for m, seed in enumerate((5, 3, 8))
        ]
    }
    for nothing in (None, {}):  # before the end of the run, and without a final evaluation
        host = {"members": [{"summary": nothing}]}
        assert members_lib.join_host([host], [{"l": 0}]) == host


def test_rows_are_joined_as_one_run_writes_them():
    def row(member, env_step, **values):
        return {"member": member, "env_step": env_step} | values

    first = [row(0, 5, a=1), row(1, 5, a=2), row(0, 5, eval_return=3), row(1, 5, eval_return=4)]
    second = [row(0, 5, eval_return=5), row(0, 9, a=6)]
    assert members_lib.join_rows([(first, [1, 0]), (second, [0])]) == [
        row(0, 5, a=2), row(1, 5, a=1),
        row(0, 5, eval_return=4), row(1, 5, eval_return=3), row(2, 5, eval_return=5),
        row(2, 9, a=6),
    ]  # fmt: skip
    assert members_lib.join_rows([(first, [1])]) == [row(0, 5, a=2), row(0, 5, eval_return=4)]


def test_list_members(killed_run, finished_run):
    records = list_members(finished_run)
    assert [(r["member"], r["seed"], r["env_step"]) for r in records] == [
        (0, 7, 240), (1, 3, 240), (2, 5, 240),
    ]  # fmt: skip
    _, host = newest(finished_run)
    assert {r["update"] for r in records} == {host["update"]}
    assert not any(r["frozen"] or r["skipped_updates"] for r in records)
    rows = read_metrics(finished_run / "metrics.jsonl")
    for record in records:
        own = [row for row in rows if row["member"] == record["member"]]
        for name in ("train_return", "eval_return"):
            assert record[name] == [row[name] for row in own if name in row][-1]
    assert [r["env_step"] for r in list_members(killed_run)] == [150] * 3


def test_extracted_members_resume_as_they_would_have(killed_run, finished_run, tmp_path):
    extract(killed_run, [2, 0], tmp_path / "two")
    config = WorkDir(tmp_path / "two").read_config()
    assert config.seeds == [5, 7]
    arrays, host = newest(tmp_path / "two")
    old_arrays, old_host = newest(killed_run)
    assert_trees_equal(arrays, jax.tree.map(lambda x: x[np.array([2, 0])], old_arrays))
    old_members = old_host["members"]
    assert (
        host["env_step"] == 150 and old_members[0]["prefetch"] and old_members[0]["report"]["sums"]
    )
    offset = (tmp_path / "two" / "metrics.jsonl").stat().st_size
    assert host == old_host | {
        "log": {"offset": offset, "pending": []}, "members": [old_members[2], old_members[0]]
    }  # fmt: skip
    assert sequence_of(tmp_path / "two" / "metrics.jsonl")[:4] == [
        (40, False, 0, 5), (40, False, 1, 7), (60, True, 0, 5), (60, True, 1, 7),
    ]  # fmt: skip
    config.steps = 240
    result = train(config, tmp_path / "two", make_env)
    assert result["finished"] and [r["seed"] for r in result["members"]] == [5, 7]
    for seed in (5, 7):
        new, old = metrics_of(tmp_path / "two", seed), metrics_of(finished_run, seed)
        assert len(new) == len(old) == 6 + 4
        for a, b in zip(new, old, strict=True):
            assert a == pytest.approx(b, rel=1e-5, abs=1e-7)


def test_extracted_and_joined_again_is_the_original(finished_run, tmp_path):
    extract(finished_run, [0], tmp_path / "a")
    extract(finished_run, [1, 2], tmp_path / "b")
    join(tmp_path / "a", tmp_path / "b", tmp_path / "c" / "joined")
    joined = tmp_path / "c" / "joined"
    assert replay_bytes(joined) == replay_bytes(finished_run)
    for name in ("metrics.jsonl", "config.json", "summary.json"):
        assert (joined / name).read_bytes() == (finished_run / name).read_bytes(), name
    for new, old in zip(newest(joined), newest(finished_run), strict=True):
        assert_trees_equal(new, old)
    assert not (joined / "wandb.json").exists()
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"joined"}


def test_a_finished_run_of_some_members_is_finished(finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    (tmp_path / "run" / "wandb.json").write_text("{}")
    extract(tmp_path / "run", [1], tmp_path / "one")
    assert {path.name for path in (tmp_path / "one").iterdir()} == {
        "config.json", "environment.json", "metrics.jsonl", "summary.json", "checkpoints",
        "checkpoints.json",        "replay", "videos",
    }  # fmt: skip
    summary = json.loads((finished_run / "summary.json").read_text())
    one = train(WorkDir(tmp_path / "one").read_config(), tmp_path / "one", make_env)
    assert one == summary | {"members": [summary["members"][1] | {"member": 0}]}
    scored = evaluate(tmp_path / "one", episodes=2, make_env=make_env)["members"]
    original = evaluate(finished_run, episodes=2, member=1, make_env=make_env)["members"]
    assert scored == [original[0] | {"member": 0}]
    assert load(tmp_path / "one", make_env=make_env).seed == 3


def test_rows_that_could_not_be_written_are_written(killed_copy, tmp_path):
    """The checkpoint holds three lines that are not in the file."""
    content = (killed_copy / "metrics.jsonl").read_bytes()
    content = content[: newest(killed_copy)[1]["log"]["offset"]]
    *kept, a, b, c = content.splitlines(keepends=True)
    (killed_copy / "metrics.jsonl").write_bytes(b"".join(kept))
    log = {"offset": sum(map(len, kept)), "pending": [x.decode() for x in (a, b, c)]}
    change_host(killed_copy, lambda host: host | {"log": log})
    extract(killed_copy, [2], tmp_path / "new")
    rows = [json.loads(line) for line in content.splitlines()]
    expected = [row | {"member": 0} for row in rows if row["member"] == 2]
    assert read_metrics(tmp_path / "new" / "metrics.jsonl") == expected
    assert newest(tmp_path / "new")[1]["log"]["pending"] == []


def test_add_members(finished_run, tmp_path, monkeypatch):
    """One member, and two added in three attempts, are what three are from the start."""
    extract(finished_run, [0], tmp_path / "one")
    add = partial(add_members, tmp_path / "one", [3, 5], tmp_path / "three")
    with killed_after(15):
        add()
    assert {path.name for path in tmp_path.iterdir()} == {"one", "three.fresh"}
    with monkeypatch.context() as patch:
        patch.setattr(members_lib, "train", lambda *_: {"finished": False})
        assert add() == {"finished": False}
    assert {path.name for path in tmp_path.iterdir()} == {"one", "three.fresh"}
    assert add()["finished"]
    assert {path.name for path in tmp_path.iterdir()} == {"one", "three"}
    three = tmp_path / "three"
    assert (three / "config.json").read_bytes() == (finished_run / "config.json").read_bytes()
    assert metrics_of(three, 7) == metrics_of(finished_run, 7)
    assert sequence_of(three / "metrics.jsonl") == sequence_of(finished_run / "metrics.jsonl")
    new, old = newest(three), newest(finished_run)
    assert jax.tree.map(np.shape, new[0]) == jax.tree.map(np.shape, old[0])
    assert new[1]["members"][0] == old[1]["members"][0]
    summaries = [WorkDir(path).read_summary() for path in (three, finished_run)]
    assert [list(s) for s in summaries] == [list(summaries[0])] * 2
    assert [(m["member"], m["seed"]) for m in summaries[0]["members"]] == [(0, 7), (1, 3), (2, 5)]


def test_a_run_before_its_first_update(early_run, tmp_path):
    members_lib.extract(early_run, [1], tmp_path / "new")
    (record,) = members_lib.list_members(tmp_path / "new")
    assert record == {
        "member": 0, "seed": 3, "env_step": 20, "update": 0, "frozen": False, "skipped_updates": 0,
        "train_return": None, "eval_return": None,
    }  # fmt: skip


def test_command(early_run, tmp_path):
    run, to = f"--workdir={early_run}", f"--to={tmp_path / 'new'}"
    status, out, err = command("members", run, "--extract=1,0", to, cache=tmp_path)
    assert status == 0, err
    table = [line.split() for line in out.splitlines()]
    assert table[0][:3] == ["member", "seed", "env_step"]
    assert [row[:3] for row in table[1:]] == [["0", "3", "20"], ["1", "7", "20"]]
