"""Runs on the device killed at any moment and resumed equal an undisturbed one."""

import numpy as np
import pytest
from killing import Run, catch_config, newest
from test_device_loop import assert_same_arrays, rows

from dreamer_jax import train


def saved(workdir):
    """Return the env step of the newest checkpoint."""
    steps = [path.name for path in (workdir / "checkpoints").glob("*") if path.name.isdecimal()]
    return max(map(int, steps), default=0)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_catch_killed_three_times(tmp_path):
    kill_and_resume(tmp_path, kills=3, steps=500)


def kill_and_resume(tmp_path, *, kills, steps):
    """Kill a run repeatedly, the first and every third time during a save, and compare it."""
    config = catch_config(loop="device", steps=steps)
    reference, run = tmp_path / "reference", tmp_path / "run"
    train(config, reference)
    rng = np.random.default_rng(0)
    while_saving = 0
    for kill in range(kills):
        target = int(config.steps * (kill + rng.uniform()) / (kills + 1))
        with Run(config, run) as process:
            assert process.wait_until(lambda: saved(run) >= target), process.text()  # noqa: B023
            if kill % 3 == 0:
                while_saving += process.wait_until(process.saves)
            process.kill()
    with Run(config, run) as process:
        process.finish()
    assert while_saving >= 1
    assert rows(run) == rows(reference)
    (arrays, host), (expected, expected_host) = newest(run), newest(reference)
    assert_same_arrays(arrays, expected)
    assert host | {"log": None} == expected_host | {"log": None}
