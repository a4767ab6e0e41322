"""Runs killed at any moment and resumed equal an undisturbed one."""

import pkgutil

import numpy as np
import pytest
from killing import Run, assert_same_run, catch_config, newest
from wandb_files import read_histories

from dreamer_jax import train
from dreamer_jax.configs import get_config


def kill_and_resume(config, tmp_path, kills, seed=0, make_env=None):
    """Kill a run repeatedly, the first and every third time during a save, and compare it."""
    reference, run = tmp_path / "reference", tmp_path / "run"
    function = make_env and pkgutil.resolve_name(make_env)
    train(config, reference, make_env=function)
    rng = np.random.default_rng(seed)
    total = newest(reference, function)[1]["members"][0]["replay"]["written"][0]
    while_saving = 0
    for kill in range(kills):
        target = int(total * (kill + rng.uniform()) / (kills + 1))
        with Run(config, run, make_env) as process:
            assert process.wait_until(lambda p=process, t=target: p.records() > t), process.text()
            if kill % 3 == 0:
                while_saving += process.wait_until(process.saves)
            process.kill()
    with Run(config, run, make_env) as process:
        process.finish()
    assert while_saving >= 1 + (kills - 1) // 3
    assert_same_run(run, reference, function)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.usefixtures("as_shipped")
def test_a_users_environment_killed_ten_times(tmp_path):
    """In workers, with factored actions and W&B, which gets every row once."""
    config = catch_config(steps=2_000)
    config.env.update({"num_envs": 2, "workers": 2})
    config.wandb.mode = "offline"
    kill_and_resume(config, tmp_path, kills=10, seed=1, make_env="levers:make_levers")
    reference, run = (read_histories(tmp_path / name / "wandb") for name in ("reference", "run"))
    sent, expected = (
        sorted([row["env_step"] for row in run["history"]] for run in histories.values())
        for histories in (run, reference)
    )
    assert sent == expected and len(sent) == 3


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.usefixtures("as_shipped")
def test_pong_killed_ten_times(tmp_path):
    config = get_config("atari", "pong,debug")
    config.update({"seeds": 2, "checkpoint_every": 50, "log_every": 100, "eval_every": 700})
    kill_and_resume(config, tmp_path, kills=10)
