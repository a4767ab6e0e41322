"""Complete tiny runs: work directories, resuming, kinds of observations, bad input."""

import gc
import json
import shutil
import sys
import weakref
from dataclasses import replace

import jax
import numpy as np
import pytest
from conftest import SHALLOW, make_tiny_config
from member_runs import killed_after
from probe_env import Probe, probe_config

from dreamer_jax import evaluate, train
from dreamer_jax.errors import UsageError
from dreamer_jax.report.metrics_log import read_metrics
from dreamer_jax.run.driver import Driver
from dreamer_jax.run.schedule import final_work
from dreamer_jax.run.setup import build
from dreamer_jax.run.trainer import Trainer
from dreamer_jax.seeding import ENV_STREAM, member_keys


def small_config(**changes):
    """Two members of catch."""
    return make_tiny_config(seeds=2, length=8, **SHALLOW, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run of two members on catch."""
    workdir = tmp_path_factory.mktemp("runs") / "catch"
    config = small_config(video_every=100, video_length=12, eval_every=100)
    return config, workdir, train(config, workdir)


def test_result_of_a_run(finished):
    config, _, result = finished
    assert result["finished"] and result["env_step"] == config.steps
    assert result["update"] == 1 + (config.steps - config.prefill) // config.train_every
    assert [m["seed"] for m in result["members"]] == [0, 1]
    assert all(m["eval_episodes"] == config.eval_episodes for m in result["members"])


def test_work_directory(finished):
    config, workdir, _ = finished
    names = {path.name for path in workdir.iterdir()}
    assert names == {
        "config.json", "environment.json", "lock", "metrics.jsonl", "summary.json", "checkpoints",
        "checkpoints.json", "videos", "curves.png", "replay",
    }  # fmt: skip
    assert json.loads((workdir / "config.json").read_text())["horizon"] == config.horizon
    videos = {path.name for path in (workdir / "videos").iterdir()}
    places = [f"{step:09d}_member{member}" for step in (100, 200) for member in (0, 1)]
    assert videos == {
        f"open_loop_{name}" for p in places for name in (f"image_{p}.gif", f"{p}.json")
    }


def test_videos_are_longer_than_the_sequences_of_updates_and_end_no_later_than_episodes(finished):
    """Of windows across the border, those are shown that begin with an episode of 8 records."""
    config, workdir, _ = finished
    assert config.length < config.video_length
    for path in (workdir / "videos").glob("*.json"):
        content = json.loads(path.read_text())
        assert content["context"] == 5 and set(content["error"]) == {"image", "reward"}
        for error in content["error"].values():
            assert [value is not None for value in error] == [True] * 8 + [False] * 4


def test_metrics(finished):
    config, workdir, _ = finished
    rows = read_metrics(workdir / "metrics.jsonl")
    for row in rows:
        assert list(row)[:5] == ["member", "seed", "env_step", "frame", "update"]
    logged = [row for row in rows if "train_episodes" in row]
    assert [(r["env_step"], r["member"]) for r in logged] == [
        (step, member) for step in range(40, 201, 40) for member in (0, 1)
    ]
    evaluated = [row["env_step"] for row in rows if "eval_return" in row]
    assert evaluated == [100, 100, 200, 200]
    last = logged[-1]
    for name in ("kl", "actor_entropy", "model_loss", "image_loss", "critic_loss", "train_return"):
        assert np.isfinite(last[name]), name
    assert logged[-1]["kl"] != logged[-2]["kl"]  # members are their own
    assert "collapsed_latents" not in logged[0]  # no update yet
    for name in ("latent_kl_max", "reward_predicted", "discount_seen", "open_loop_error"):
        assert np.isfinite(last[name]), name
    assert 0 <= last["collapsed_latents"] <= 1
    evaluations = [row for row in rows if "eval_return" in row]
    assert all(np.isfinite(row["critic_bias"]) for row in evaluations)
    assert all(np.isfinite(row["eval_reward_error"]) for row in evaluations)


def test_a_finished_run_is_not_run_again(finished):
    config, workdir, result = finished
    before = (workdir / "metrics.jsonl").read_text()
    assert train(config, workdir) == result
    assert (workdir / "metrics.jsonl").read_text() == before


def test_evaluate(finished):
    _, workdir, _ = finished
    summary = evaluate(workdir, episodes=3, video=True)
    assert summary["env_step"] == 200
    assert [m["eval_episodes"] for m in summary["members"]] == [3, 3]
    assert all(abs(m["eval_return"]) <= 1 and m["eval_length"] == 7 for m in summary["members"])
    assert all((workdir / "videos" / path.split("/")[-1]).is_file() for path in summary["videos"])
    with pytest.raises(UsageError, match="episodes is 0"):
        evaluate(workdir, episodes=0)


def test_another_config_is_refused(finished):
    config, workdir, _ = finished
    before = sorted(path.name for path in workdir.iterdir())
    other = config.copy_and_resolve_references()
    other.horizon = 7
    with pytest.raises(UsageError, match="horizon: 4 -> 7"):
        train(other, workdir)
    assert sorted(path.name for path in workdir.iterdir()) == before


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Reporter.draw_curves", "open_loop_gif"])
def test_no_failure_of_a_picture_ends_or_alters_a_run(
    finished, tmp_path, monkeypatch, capsys, name
):
    def fails(*args, **kwargs):
        raise LookupError("no such font")

    monkeypatch.setattr(f"dreamer_jax.run.trainer.{name}", fails)
    config, workdir, result = finished
    assert train(config, tmp_path / "run") == result
    assert comparable(tmp_path / "run") == comparable(workdir)
    assert "no picture at env step 100: LookupError: no such font" in capsys.readouterr().out


@pytest.mark.slow
def test_pictures_change_nothing(tmp_path):
    """Not even during the prefill, when the replay can already be sampled."""
    found = []
    for every in (0, 20):
        config = small_config(steps=120, video_every=every)
        train(config, tmp_path / str(every))
        found.append(comparable(tmp_path / str(every)))
    assert found[0] == found[1]
    assert not list((tmp_path / "20" / "videos").glob("*_000000020_*"))
    assert list((tmp_path / "20" / "videos").glob("*_000000060_*"))


def test_a_damaged_summary_is_written_again(finished, tmp_path):
    config, workdir, result = finished
    shutil.copytree(workdir, tmp_path / "run")
    for text in ("{", "{}", "[1]"):
        (tmp_path / "run" / "summary.json").write_text(text)
        assert train(config, tmp_path / "run") == result
        assert json.loads((tmp_path / "run" / "summary.json").read_text()) == result


def lose(path):
    shutil.rmtree(path)


def empty(path):
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "damage", "message"),
    [
        ("replay", lose, "replay is gone"),
        ("replay/1", lose, "replay/1 is gone"),
        ("replay/1/layout.json", empty, "layout.json is damaged: JSONDecodeError"),
        ("metrics.jsonl", empty, "of 0 is not the end of a line; .* Put a copy back"),
    ],
)
def test_a_run_that_lost_something_is_refused(finished, tmp_path, name, damage, message):
    config, workdir, _ = finished
    shutil.copytree(workdir, tmp_path / "run")
    damage(tmp_path / "run" / name)
    longer = config.copy_and_resolve_references()
    longer.steps = 250
    with pytest.raises(UsageError, match=message):
        train(longer, tmp_path / "run")
    assert damage is empty or not (tmp_path / "run" / name).exists()


@pytest.mark.slow
def test_a_run_may_end_before_its_last_checkpoint(tmp_path):
    def config(steps):
        return small_config(steps=steps, checkpoint_every=50, eval_every=0)

    assert train(config(100), tmp_path / "run")["env_step"] == 100
    with killed_after(80):
        train(config(200), tmp_path / "run")
    assert train(config(90), tmp_path / "run")["env_step"] == 100  # finished before
    result = train(config(120), tmp_path / "run")
    assert result["finished"] and result["env_step"] == 150
    rows = [r for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if "eval_return" in r]
    assert [row["env_step"] for row in rows] == [100, 100, 150, 150]
    assert [row["eval_return"] for row in rows[2:]] == [
        member["eval_return"] for member in result["members"]
    ]


def test_the_work_of_an_end_leaves_out_the_log_line_that_there_is():
    config = small_config(steps=60, log_every=40, eval_every=0, checkpoint_every=0)
    everything = ["log", "updates", "evaluation", "pictures", "checkpoint"]
    assert final_work(config, 84) == everything and final_work(config, 80) == everything[1:]


def test_a_replay_must_fit_the_memory(tmp_path):
    config = small_config()
    config.replay.update({"storage": "memory", "capacity": 10**12})
    with pytest.raises(UsageError, match="'memory' a replay of 1000000000000 .* allowed: config"):
        train(config, tmp_path / "run")


def test_a_replay_in_memory_is_not_resumed(tmp_path):
    config = small_config(steps=60)
    config.replay.storage = "memory"
    result = train(config, tmp_path / "run")
    assert train(config, tmp_path / "run") == result
    config.steps = 100
    with pytest.raises(UsageError, match="config.replay.storage = 'memory'"):
        train(config, tmp_path / "run")


def test_evaluate_without_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run in"):
        evaluate(tmp_path / "nothing")


def comparable(workdir):
    """Read metrics.jsonl without the rates, which depend on the clock."""
    rows = read_metrics(workdir / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.endswith("_per_s")} for row in rows]


@pytest.mark.parametrize(
    ("stop", "resumed"),
    [
        (70, ["resumed at env step 50"]),
        pytest.param(30, [], marks=pytest.mark.slow),
        pytest.param(170, ["resumed at env step 150"], marks=pytest.mark.slow),
    ],
)
def test_interrupted_and_resumed_equals_uninterrupted(
    finished, tmp_path, stop, resumed, monkeypatch
):
    """Before the first checkpoint and between two; the state of catch is exact."""
    config, reference, result = finished
    original = Driver.step
    calls = []

    def fails(self, actions):
        calls.append(1)
        if len(calls) == stop:
            raise KeyboardInterrupt
        return original(self, actions)

    with monkeypatch.context() as patch:
        patch.setattr(Driver, "step", fails)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "run")
    assert train(config, tmp_path / "run") == result
    assert comparable(tmp_path / "run") == comparable(reference)
    log = tmp_path / "run" / "resumes.log"
    lines = log.read_text().splitlines() if log.exists() else []
    assert [line.split(" ", 2)[2] for line in lines] == resumed
    assert not (reference / "resumes.log").exists()


@pytest.mark.slow
def test_images_and_vectors_and_continuous_actions(tmp_path):
    config = probe_config(steps=120)
    result = train(config, tmp_path / "run", lambda seed: Probe())
    assert result["update"] == 1 + (120 - 40) // 8
    last = [r for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if "camera_loss" in r][-1]
    assert np.isfinite(last["camera_loss"]) and np.isfinite(last["speed_loss"])
    assert -9 * 8 <= last["train_return"] < 0  # actions reach the bounds of +-2, 9 steps


@pytest.mark.slow
def test_cartpole(tmp_path):
    config = make_tiny_config(task="gym:CartPole-v1", steps=100, eval_episodes=1, **SHALLOW)
    result = train(config, tmp_path / "run")
    assert result["members"][0]["eval_return"] >= 1
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert any("vector_loss" in row for row in rows)
    assert not any("image_loss" in row for row in rows)


def test_episodes_shorter_than_a_sequence_are_explained(tmp_path):
    config = make_tiny_config(length=20, seeds=2)
    config.replay.sampling = "episodes"
    with pytest.raises(UsageError, match="config.replay.sampling = 'time'"):
        train(config, tmp_path / "run")


def test_keys_must_choose_something(tmp_path):
    config = make_tiny_config(cnn_keys="pixels", mlp_keys="$^")
    with pytest.raises(UsageError, match="images \\['image'\\]"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("catch", {"actor": {"dist": "trunc_normal"}}, "'trunc_normal'.*allowed: auto or onehot"),
        ("reach", {"actor": {"dist": "onehot"}}, "allowed: auto or trunc_normal or tanh_normal"),
        ("catch", {"expl": {"noise": "normal"}}, "'normal'.*none or epsilon_greedy or random"),
        ("catch", {"behavior": "planet"}, "continuous actions.*discrete; allowed: dreamer"),
        ("reach", {"objective": "contrastive", "batch": 1, "length": 1}, "config.length is 1"),
    ],
)
def test_agents_must_fit_the_environment(tmp_path, task, changes, message):
    config = make_tiny_config(task=task, **changes)
    with pytest.raises(UsageError, match=message):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_trainer_is_freed_without_a_garbage_collection(tmp_path, tiny_config, monkeypatch):
    """It holds the device arrays of a run."""
    trainers = []
    monkeypatch.setattr(Trainer, "run", lambda self: trainers.append(weakref.ref(self)))
    gc.disable()
    try:
        train(tiny_config, tmp_path / "run")
        assert trainers[0]() is None
    finally:
        gc.enable()


def test_environment_workers_do_not_load_jax():
    setup = build(make_tiny_config())
    make_env = setup.make_env

    def check(seed):
        if "jax" in sys.modules:
            raise ImportError("a worker has loaded JAX")
        return make_env(seed)

    def on_fault(row, text):
        raise AssertionError(text)

    vector = replace(setup, make_env=check).make_vector(ENV_STREAM, 1, on_fault, workers=1)
    vector.close()


def test_prng_is_threefry(finished):
    config, _, _ = finished
    keys = member_keys([3, 4], 1)
    assert str(jax.random.key_impl(keys)) in ("threefry2x32", "fry")
    solo = member_keys([4], 1)
    assert (jax.random.key_data(keys)[1] == jax.random.key_data(solo)[0]).all()
