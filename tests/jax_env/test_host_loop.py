"""Environments that are JAX programs in the host loop: complete runs, resumed and evaluated."""

import numpy as np
import pytest
from conftest import SHALLOW, make_tiny_config
from jax_doubles import PLACES
from killing import rows
from member_runs import killed_after

from dreamer_jax import evaluate, load, train
from dreamer_jax.errors import UsageError
from dreamer_jax.run.members import list_members
from dreamer_jax.run.setup import build


def config_of(seeds, **changes):
    small = {"length": 8, "eval_every": 60, "horizon": 2, "steps": 120, **SHALLOW}
    config = make_tiny_config(seeds=seeds, **small | changes)
    config.env.num_envs = 2
    return config


@pytest.mark.slow
def test_a_run_is_resumed_exactly_and_evaluated(tmp_path):
    config = config_of((7, 3))
    whole = train(config, tmp_path / "whole", PLACES)
    assert whole["finished"] and [m["eval_length"] for m in whole["members"]] == [7, 7]
    with killed_after(40):
        train(config, tmp_path / "run", PLACES)
    assert train(config, tmp_path / "run", PLACES) == whole
    assert rows(tmp_path / "run") == rows(tmp_path / "whole")
    lengths = [row["train_length"] for row in rows(tmp_path / "run") if "train_length" in row]
    assert lengths and set(lengths) == {7}
    returns = [m["eval_return"] for m in evaluate(tmp_path / "run", make_env=PLACES)["members"]]
    assert np.isfinite(returns).all()
    assert [m["seed"] for m in list_members(tmp_path / "run", make_env=PLACES)] == [7, 3]
    agent = load(tmp_path / "run", make_env=PLACES)
    obs, _ = agent.make_env().reset()
    assert agent.policy(obs) in (0, 1, 2)
    with pytest.raises(UsageError, match="hold no image"):
        evaluate(tmp_path / "run", video=True, make_env=PLACES)


@pytest.mark.slow
def test_a_member_is_as_alone(tmp_path):
    train(config_of((7, 3)), tmp_path / "two", PLACES)
    train(config_of((3,)), tmp_path / "one", PLACES)
    second = [row | {"member": 0} for row in rows(tmp_path / "two") if row["member"] == 1]
    assert len(second) == len(rows(tmp_path / "one")) > 3
    for row, alone in zip(second, rows(tmp_path / "one"), strict=True):
        assert row == pytest.approx(alone, rel=1e-5, abs=1e-7)


@pytest.mark.parametrize(
    ("changes", "make_env", "message"),
    [
        ({"env": {"workers": 1}}, PLACES, "env.workers is 1; allowed: 0"),
        ({"task": "gymnx:Breakout"}, None, "choose one of: .*gymnax.*Did you mean 'gymnax'"),
        (
            {"loop": "device", "task": "gym:CartPole-v1"},
            None,
            "is no JAX program; allowed: .*catch",
        ),
        ({"loop": "device"}, lambda seed: None, "of make_env is no JAX program"),
        ({"loop": "gpu"}, None, "config.loop is 'gpu'; allowed: one of device, host"),
    ],
)
def test_what_does_not_fit_is_refused(changes, make_env, message):
    with pytest.raises(UsageError, match=message):
        build(make_tiny_config(**changes), make_env)


def test_host_tasks_stay_those_of_gymnasium():
    assert build(make_tiny_config()).jax_env is None
    assert build(make_tiny_config(loop="device")).jax_env is not None
