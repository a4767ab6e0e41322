"""Members that have nothing to learn from do not stop the others, nor freeze."""

import gymnasium
import numpy as np
import pytest
from conftest import SHALLOW, make_tiny_config
from gymnasium import spaces
from killing import rows

from dreamer_jax import UsageError, train
from dreamer_jax.seeding import ENV_STREAM, env_seed


class Episodes(gymnasium.Env):
    """Episodes of a given length."""

    observation_space = spaces.Box(0, 1e6, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self, length):
        self.length = length

    def reset(self, *, seed=None, options=None):
        self.time = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        return np.full(1, self.time, np.float32), 1.0, self.time >= self.length, False, {}


def make_env(seed):
    return Episodes(3 if seed == env_seed(7, ENV_STREAM, 0) else 1000)


@pytest.mark.slow
def test_updates_without_data_are_skipped_and_said(tmp_path, capsys):
    tiny = {"seeds": (4, 7), "steps": 120, "max_nonfinite": 2, "eval_episodes": 0}
    config = make_tiny_config(**tiny | SHALLOW)
    # The episode of seed 4 is never complete, and its beginning is soon overwritten.
    config.replay.update({"sampling": "episodes", "capacity": 50})
    assert train(config, tmp_path / "run", make_env)["finished"]
    last = {row["member"]: row for row in rows(tmp_path / "run") if "skipped_updates" in row}
    assert last[0]["skipped_updates"] == 0 and "model_loss" in last[0]
    assert last[1]["skipped_updates"] >= 9 and "model_loss" not in last[1]
    assert not last[1]["frozen"]
    message = "member 1 (seed 7) has no sequence of config.length = 6 steps"
    said = capsys.readouterr().out.replace("\n", " ")
    assert said.count(message) == 1
    assert said.count("shorter than config.length = 6 records, and are never drawn from") == 1
    config.steps = 140  # a resumed run goes on, too
    assert train(config, tmp_path / "run", make_env)["finished"]


@pytest.mark.slow
def test_a_run_without_any_sequence_is_refused(tmp_path):
    config = make_tiny_config(**{"eval_episodes": 0} | SHALLOW)
    config.replay.sampling = "episodes"
    with pytest.raises(UsageError, match="no sequence of config.length = 6 steps for any member"):
        train(config, tmp_path / "run", lambda seed: Episodes(3))
