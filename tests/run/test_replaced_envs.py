"""Runs whose environments raise, hang, or return NaN."""

import functools
import time

import numpy as np
import pytest
from conftest import make_tiny_config
from killing import live_records, newest, rows
from probe_env import Probe, probe_config

from dreamer_jax import train
from dreamer_jax.envs.catch import Catch
from dreamer_jax.envs.vector import TooManyFaults
from dreamer_jax.errors import UsageError


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("nan", "reward must be a finite number"),
        ("raise", "OSError: the simulator"),
        ("hang", "hung for 3 seconds"),
    ],
)
def test_an_environment_that_fails_is_replaced(tmp_path, fault, message):
    config = probe_config(steps=100)
    config.env.update({"workers": int(fault == "hang"), "timeout": 3.0})
    make_env = functools.partial(make_probe, fault=fault, once=str(tmp_path / "once"))
    result = train(config, tmp_path / "run", make_env)
    assert result["finished"]
    assert message in (tmp_path / "run" / "faults.log").read_text()
    logged = [row for row in rows(tmp_path / "run") if "skipped_updates" in row]
    assert logged[-1]["env_faults"] == 1 and "env_faults" not in logged[0]
    host = newest(tmp_path / "run", make_env)[1]
    assert sum(generations(host)) >= 1


def generations(host):
    """Return how often each environment was replaced."""
    return [row["generation"] for member in host["members"] for row in member["driver"]["rows"]]


def make_probe(seed, fault, once, fault_step=32):
    return Probe(fault, fault_step, once)


@pytest.mark.slow
def test_environments_that_fail_too_often_stop_the_run(tmp_path):
    config = probe_config(steps=100)
    config.env.max_faults = 3
    began = time.monotonic()
    with pytest.raises(TooManyFaults, match="reward must be a finite number"):
        train(config, tmp_path / "run", lambda seed: Probe("nan", 5))
    assert time.monotonic() - began < 60
    # Nothing is lost, and nothing left in the way: the same run can begin again.
    config.steps = 60
    assert train(config, tmp_path / "run", lambda seed: Probe())["env_step"] == 60


class Unsaveable(Probe):
    """A probe that cannot be pickled, like many simulators."""

    def __init__(self):
        super().__init__()
        self._stream = (number for number in ())


@pytest.mark.slow
def test_environments_without_exact_state_restart(tmp_path, capsys):
    config = probe_config(steps=58)  # 29 decisions in each environment: the fourth episode is open
    make_env = lambda seed: Unsaveable()  # noqa: E731
    train(config, tmp_path / "run", make_env)
    capsys.readouterr()
    config.steps = 100
    assert train(config, tmp_path / "run", make_env)["finished"]
    printed = capsys.readouterr().out
    assert "2 of 2 environments could not be restored" in printed
    host = newest(tmp_path / "run", make_env)[1]
    assert generations(host) == [1, 1]
    records = live_records(tmp_path / "run", host)
    for env in (0, 1):
        first = np.flatnonzero(records["is_first", 0, env])
        last = np.flatnonzero(records["is_last", 0, env])
        # Episodes of nine steps and a reset; the one of records 30 to 32 was cut.
        assert first.tolist() == [0, 10, 20, 30, 33, 43, 53]
        assert last.tolist() == [9, 19, 29, 32, 42, 52]
        assert not records["is_terminal", 0, env].any()


@pytest.mark.slow
def test_what_a_replacement_cannot_mend_is_said_once(tmp_path, capsys):
    """Such as an environment of an old interface, or one that raises a UsageError itself."""

    class OldStep(Catch):
        def step(self, action):
            return super().step(action)[:4]

    with pytest.raises(UsageError, match="^OldStep.step.. returned 4 values"):
        train(make_tiny_config(), tmp_path / "run", lambda seed: OldStep())
    assert "is replaced" not in capsys.readouterr().out
