"""Members taken out of runs, put together and added: the same runs as before, file by file."""

import contextlib
import dataclasses
import json
import os
import shutil
from functools import partial

import jax
import numpy as np
import pytest
from conftest import make_tiny_config
from gymnasium import spaces
from test_cli import command

from dreamer_jax import config as config_lib
from dreamer_jax import evaluate, load, member_data, membership, run_copy, train
from dreamer_jax.driver import Driver
from dreamer_jax.envs.catch import Catch
from dreamer_jax.logger import read_metrics
from dreamer_jax.names import UsageError
from dreamer_jax.replay_space import HIGH_WATER_FILE
from dreamer_jax.workdir import WorkDir


class Places(Catch):
    """Catch whose observation is the places of ball and paddle: nothing to compile for images."""

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(0, 8, (3,), np.float32)

    def _image(self):
        return np.array([self._row, self._ball, self._paddle], np.float32)


def make_env(seed):
    return Places()


add_members, extract, join, list_members = (
    partial(function, make_env=make_env)
    for function in (
        membership.add_members, membership.extract, membership.join, membership.list_members,
    )
)  # fmt: skip


def member_config(seeds, **changes):
    changes = {"length": 8, "eval_every": 60, "horizon": 2} | changes
    for network in ("vector", "reward_head", "discount_head", "actor", "critic"):
        changes[network] = {"layers": 1}
    config = make_tiny_config(seeds=seeds, **changes)
    config.env.num_envs = 2
    return config


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """Most of the time here goes into compiling programs that run a few times."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@contextlib.contextmanager
def killed_after(steps):
    """The process ends without a word after so many steps of its environments."""
    original, calls = Driver.finish, []

    def finish(self, actions):
        calls.append(1)
        if len(calls) > steps:
            raise KeyboardInterrupt
        return original(self, actions)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Driver, "finish", finish)
        yield


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Three members, saved at env step 150, in between of log lines."""
    workdir = tmp_path_factory.mktemp("runs") / "killed"
    with killed_after(84):
        train(member_config((7, 3, 5)), workdir, make_env)
    return workdir


@pytest.fixture(scope="module")
def finished(killed):
    """The same run brought to its end at 240."""
    workdir = killed.with_name("finished")
    shutil.copytree(killed, workdir)
    train(member_config((7, 3, 5), steps=240), workdir, make_env)
    return workdir


@pytest.fixture(scope="module")
def early(tmp_path_factory):
    """Two members of a task that has a name, saved at 20: before any log line, update or batch."""
    workdir = tmp_path_factory.mktemp("runs") / "early"
    config = member_config((7, 3), task="gym:CartPole-v1", checkpoint_every=20)
    with killed_after(15):
        train(config, workdir)
    return workdir


@pytest.fixture
def copy(killed, tmp_path):
    """A copy of the killed run that may be spoilt."""
    return shutil.copytree(killed, tmp_path / "copy")


def newest(workdir):
    """Arrays, with keys as numbers, and host data of the newest checkpoint."""
    source = run_copy.read_source(workdir, None, make_env)
    return jax.tree.map(plain, source.arrays), source.host


def plain(x):
    return jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def assert_trees_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def replay_bytes(workdir):
    return {path.name: path.read_bytes() for path in (workdir / "replay").iterdir()}


def metrics_of(workdir, seed):
    """One seed's rows without its number and what depends on the clock."""
    rows = [row for row in read_metrics(workdir / "metrics.jsonl") if row["seed"] == seed]
    return [
        {k: v for k, v in row.items() if k != "member" and not k.endswith("_per_s")} for row in rows
    ]


def sequence_of(path):
    return [(r["env_step"], "eval_return" in r, r["member"], r["seed"]) for r in read_metrics(path)]


def test_a_checkpoint_of_all_members_is_itself(killed):
    """Fails where the trainer's host data gets an entry that is not known here."""
    _, host = newest(killed)
    assert host["env_step"] == 150 and host["records"]["sums"] and host["prefetch"]
    gathered = member_data.gather_host([(host, [0, 1, 2])], 2)
    gathered["records"]["offset"] = host["records"]["offset"]
    assert gathered == host


def test_list_members(killed, finished):
    records = list_members(finished)
    assert [(r["member"], r["seed"], r["env_step"]) for r in records] == [
        (0, 7, 240), (1, 3, 240), (2, 5, 240),
    ]  # fmt: skip
    _, host = newest(finished)
    assert {r["update"] for r in records} == {host["update"]}
    assert not any(r["frozen"] or r["skipped_updates"] for r in records)
    rows = read_metrics(finished / "metrics.jsonl")
    for record in records:
        own = [row for row in rows if row["member"] == record["member"]]
        for name in ("train_return", "eval_return"):
            assert record[name] == [row[name] for row in own if name in row][-1]
    assert [r["env_step"] for r in list_members(killed)] == [150] * 3


def test_extracted_members_go_on_as_they_would_have(killed, finished, tmp_path):
    extract(killed, [2, 0], tmp_path / "two")
    config = WorkDir(tmp_path / "two").read_config()
    assert config.seeds == [5, 7]
    arrays, host = newest(tmp_path / "two")
    old_arrays, old_host = newest(killed)
    assert_trees_equal(arrays, jax.tree.map(lambda x: x[np.array([2, 0])], old_arrays))
    assert host["records"]["offset"] == (tmp_path / "two" / "metrics.jsonl").stat().st_size
    assert sequence_of(tmp_path / "two" / "metrics.jsonl")[:4] == [
        (40, False, 0, 5), (40, False, 1, 7), (60, True, 0, 5), (60, True, 1, 7),
    ]  # fmt: skip
    config.steps = 240
    result = train(config, tmp_path / "two", make_env)
    assert result["finished"] and [r["seed"] for r in result["members"]] == [5, 7]
    for seed in (5, 7):
        new, old = metrics_of(tmp_path / "two", seed), metrics_of(finished, seed)
        assert len(new) == len(old) == 6 + 4
        for a, b in zip(new, old, strict=True):
            assert a == pytest.approx(b, rel=1e-5, abs=1e-7)


def test_extracted_and_joined_again_is_the_original(finished, tmp_path):
    extract(finished, [0], tmp_path / "a")
    extract(finished, [1, 2], tmp_path / "b")
    join(tmp_path / "a", tmp_path / "b", tmp_path / "c" / "joined")
    joined = tmp_path / "c" / "joined"
    assert replay_bytes(joined) == replay_bytes(finished)
    for name in ("metrics.jsonl", "config.json", "summary.json"):
        assert (joined / name).read_bytes() == (finished / name).read_bytes(), name
    for new, old in zip(newest(joined), newest(finished), strict=True):
        assert_trees_equal(new, old)
    assert not (joined / "wandb.json").exists()
    assert {path.name for path in (tmp_path / "c").iterdir()} == {"joined"}


def test_a_finished_run_of_some_members_is_finished(finished, tmp_path):
    (finished / "wandb.json").write_text("{}")
    extract(finished, [1], tmp_path / "one")
    (finished / "wandb.json").unlink()
    assert {path.name for path in (tmp_path / "one").iterdir()} == {
        "config.json", "metrics.jsonl", "summary.json", "checkpoints", "checkpoints.json",
        "replay", "videos",
    }  # fmt: skip
    summary = json.loads((finished / "summary.json").read_text())
    one = train(WorkDir(tmp_path / "one").read_config(), tmp_path / "one", make_env)
    assert one == summary | {"members": [summary["members"][1] | {"member": 0}]}
    scored = evaluate(tmp_path / "one", episodes=2, make_env=make_env)["members"]
    there = evaluate(finished, episodes=2, member=1, make_env=make_env)["members"]
    assert scored == [there[0] | {"member": 0}]
    assert load(tmp_path / "one", make_env=make_env).seed == 3


def test_rows_that_could_not_be_written_are_written(copy, tmp_path):
    """The checkpoint knows three lines that are not in the file."""
    source = run_copy.read_source(copy, [2], make_env)
    content = (copy / "metrics.jsonl").read_bytes()[: source.host["records"]["offset"]]
    *kept, a, b, c = content.splitlines(keepends=True)
    (copy / "metrics.jsonl").write_bytes(b"".join(kept))
    records = {"offset": sum(map(len, kept)), "pending": [x.decode() for x in (a, b, c)]}
    host = {**source.host, "records": {**source.host["records"], **records}}
    run_copy.assemble([dataclasses.replace(source, host=host)], tmp_path / "new")
    rows = [json.loads(line) for line in content.splitlines()]
    expected = [row | {"member": 0} for row in rows if row["member"] == 2]
    assert read_metrics(tmp_path / "new" / "metrics.jsonl") == expected
    assert newest(tmp_path / "new")[1]["records"]["pending"] == []


def test_add_members(finished, tmp_path, monkeypatch):
    """One member, and two added in three attempts, are what three are from the start."""
    extract(finished, [0], tmp_path / "one")
    add = partial(add_members, tmp_path / "one", [3, 5], tmp_path / "three")
    with killed_after(15):
        add()
    assert {path.name for path in tmp_path.iterdir()} == {"one", "three.fresh"}
    with monkeypatch.context() as patch:
        patch.setattr(membership, "train", lambda *_: {"finished": False})
        assert add() == {"finished": False}
    assert {path.name for path in tmp_path.iterdir()} == {"one", "three.fresh"}
    assert add()["finished"]
    assert {path.name for path in tmp_path.iterdir()} == {"one", "three"}
    three = tmp_path / "three"
    assert (three / "config.json").read_bytes() == (finished / "config.json").read_bytes()
    assert metrics_of(three, 7) == metrics_of(finished, 7)
    assert sequence_of(three / "metrics.jsonl") == sequence_of(finished / "metrics.jsonl")
    new, old = newest(three), newest(finished)
    assert jax.tree.map(np.shape, new[0]) == jax.tree.map(np.shape, old[0])
    assert new[1]["replay"]["written"][0] == old[1]["replay"]["written"][0]
    summaries = [WorkDir(path).read_summary() for path in (three, finished)]
    assert [list(s) for s in summaries] == [list(summaries[0])] * 2
    assert [(m["member"], m["seed"]) for m in summaries[0]["members"]] == [(0, 7), (1, 3), (2, 5)]


def test_a_run_before_its_first_update(early, tmp_path):
    membership.extract(early, [1], tmp_path / "new")
    (record,) = membership.list_members(tmp_path / "new")
    assert record == {
        "member": 0, "seed": 3, "env_step": 20, "update": 0, "frozen": False, "skipped_updates": 0,
        "train_return": None, "eval_return": None,
    }  # fmt: skip


def refuse(call, workdir, match, error=UsageError):
    """The call raises, and nothing is left in the directory that it was to write in."""
    before = sorted(os.listdir(workdir))
    with pytest.raises(error, match=match):
        call()
    assert sorted(os.listdir(workdir)) == before


@pytest.mark.parametrize("members", [[3], [-1], [0, 0], []])
def test_members_that_are_not_there(killed, tmp_path, members):
    choices = r"0 \(seed 7\), 1 \(seed 3\), 2 \(seed 5\)"
    refuse(lambda: extract(killed, members, tmp_path / "new"), tmp_path, choices)


def test_no_run_and_no_checkpoint(copy, tmp_path):
    new = tmp_path / "new"
    refuse(lambda: list_members(tmp_path / "no"), tmp_path, "no run in", FileNotFoundError)
    refuse(lambda: add_members(tmp_path / "no", [1], new), tmp_path, "no run", FileNotFoundError)
    shutil.rmtree(copy / "checkpoints")
    refuse(lambda: extract(copy, [0], new), tmp_path, "no checkpoint in", FileNotFoundError)


def test_a_target_that_cannot_be(killed, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("precious")
    (tmp_path / "file").write_text("")
    for target in ("thesis", "file"):
        refuse(lambda t=target: extract(killed, [0], tmp_path / t), tmp_path, "empty or not there")
    for target in (killed, killed / "sub", killed.parent / "x" / ".." / "killed"):
        refuse(lambda t=target: extract(killed, [0], t), killed, "outside of")
    refuse(lambda: join(tmp_path / "a", killed, killed), killed, "outside of")
    assert (tmp_path / "thesis" / "thesis.tex").read_text() == "precious"


def test_an_empty_target_is_taken(killed, tmp_path):
    (tmp_path / "empty").mkdir()
    extract(killed, [1], tmp_path / "empty")
    assert [r["seed"] for r in list_members(tmp_path / "empty")] == [3]


def test_adding_what_cannot_be_added(killed, finished, tmp_path):
    def add(workdir, seeds, match):
        refuse(lambda: add_members(workdir, seeds, tmp_path / "new"), tmp_path, match)

    add(killed, [1], "has not come to its end")
    add(finished, [1, 3], r"seeds are \[1, 3\]; allowed: others than .* \[3, 5, 7\]")
    add(finished, [1, 1], "config.seeds is")
    add(finished, [-1], "config.seeds is")
    add(finished, [], "config.seeds is")


def change_config(workdir, **changes):
    config = WorkDir(workdir).read_config()
    config.update(changes)
    WorkDir(workdir).config.write_text(config_lib.to_json(config))


def test_runs_that_do_not_fit_together(killed, finished, tmp_path):
    a, b, new = tmp_path / "a", tmp_path / "b", tmp_path / "new"
    extract(killed, [0], a)
    refuse(lambda: join(killed, a, new), tmp_path, r"has the members \['seed 7'\]; allowed: others")
    extract(finished, [1], b)
    refuse(lambda: join(a, b, new), tmp_path, "not equally far: {'env_step': 150.*240")
    change_config(b, lambda_=0.9)
    refuse(lambda: join(a, b, new), tmp_path, "different configs:\n  lambda_: 0.95 -> 0.9")


def test_keys_that_may_differ_are_the_firsts(killed, tmp_path):
    extract(killed, [0], tmp_path / "a")
    extract(killed, [1], tmp_path / "b")
    change_config(tmp_path / "b", steps=300, checkpoint_keep=5)
    join(tmp_path / "a", tmp_path / "b", tmp_path / "new")
    assert WorkDir(tmp_path / "new").read_config().steps == 200


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"due": ["evaluation"]}, r"stopped in the middle .* \['evaluation'\]"),
        ({"prefetch": None}, "only one of .* has begun to draw"),
    ],
)
def test_host_data_that_do_not_fit_together(killed, changes, match):
    first = run_copy.read_source(killed, [0], make_env)
    other = config_lib.with_seeds(first.config, [1, 2, 4])
    second = dataclasses.replace(first, config=other, host={**first.host, **changes})
    with pytest.raises(UsageError, match=match):
        membership._check_fit(first, second)


def test_a_replay_that_is_gone(copy, finished, tmp_path):
    shutil.rmtree(copy / "replay")
    refuse(lambda: extract(copy, [0], tmp_path / "new"), tmp_path, "replay.* is missing")
    ended = shutil.copytree(finished, tmp_path / "ended")
    shutil.rmtree(ended / "replay")
    extract(ended, [0], tmp_path / "new")
    assert evaluate(tmp_path / "new", episodes=1, make_env=make_env)["members"][0]["seed"] == 7
    config = WorkDir(tmp_path / "new").read_config()
    config.steps = 300
    with pytest.raises(UsageError, match="replay is gone"):
        train(config, tmp_path / "new", make_env)


def test_a_replay_in_memory(copy, tmp_path):
    shutil.rmtree(copy / "replay")
    change_config(copy, replay={"storage": "memory"})
    refuse(lambda: extract(copy, [0], tmp_path / "new"), tmp_path, "in\\s+memory")
    WorkDir(copy).write_summary({"finished": True, "env_step": 150, "update": 1, "members": None})
    extract(copy, [0], tmp_path / "new")
    assert not (tmp_path / "new" / "replay").exists()


def test_a_damaged_replay_leaves_nothing_behind(copy, tmp_path):
    os.truncate(copy / "replay" / "reward.bin", 100)
    refuse(lambda: extract(copy, [0], tmp_path / "new"), tmp_path, "reward.bin is damaged")


def test_a_run_that_went_on_too_far(copy, tmp_path):
    marks = np.fromfile(copy / "replay" / HIGH_WATER_FILE, np.int64)
    (marks + 10**6).tofile(copy / "replay" / HIGH_WATER_FILE)
    refuse(lambda: extract(copy, [0], tmp_path / "new"), tmp_path, "gone on too far")


def test_metrics_that_were_changed(copy, tmp_path):
    os.truncate(copy / "metrics.jsonl", 100)
    refuse(lambda: extract(copy, [0], tmp_path / "new"), tmp_path, "was changed since")


def test_a_full_disk(killed, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    refuse(lambda: extract(killed, [0], tmp_path / "new"), tmp_path, "has 1.0 kB free")


def test_a_damaged_checkpoint_is_passed_over(finished, tmp_path):
    run = shutil.copytree(finished, tmp_path / "run")
    file = max((run / "checkpoints" / "240").rglob("*"), key=lambda p: p.stat().st_size)
    os.truncate(file, 10)
    extract(run, [0], tmp_path / "new")
    assert [r["env_step"] for r in list_members(tmp_path / "new")] == [200]
    assert max(row["env_step"] for row in read_metrics(tmp_path / "new" / "metrics.jsonl")) == 200
    assert not (tmp_path / "new" / "summary.json").exists()
    refuse(lambda: add_members(run, [1], tmp_path / "more"), tmp_path, "is of env step 200, not")


def test_command(early, tmp_path):
    run, to = f"--workdir={early}", f"--to={tmp_path / 'new'}"
    status, out, err = command("members", run, "--extract=1,0", to, cache=tmp_path)
    assert status == 0, err
    table = [line.split() for line in out.splitlines()]
    assert table[0][:3] == ["member", "seed", "env_step"]
    assert [row[:3] for row in table[1:]] == [["0", "3", "20"], ["1", "7", "20"]]


def test_mistakes_on_the_command_line(early, tmp_path):
    run, to = f"--workdir={early}", f"--to={tmp_path / 'new'}"
    for flags, message in (
        (["--extract=9", to], "members are [9]; allowed"),
        (["--extract=1", "--add=3", to], "At most one of (extract, join, add)"),
    ):
        status, out, err = command("members", run, *flags, cache=tmp_path)
        assert status == 2 and message in err, err
        assert "Traceback" not in err and not out
