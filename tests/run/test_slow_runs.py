"""Real runs: catch is learned, Pong trains on the real emulator, the full-size agent updates."""

import numpy as np
import pytest

from dreamer_jax import train
from dreamer_jax.configs import get_config
from dreamer_jax.report.metrics_log import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_shipped")]


@pytest.mark.timeout(1500)
def test_catch_is_learned_by_both_seeds(tmp_path):
    result = train(get_config("catch"), tmp_path / "run")
    returns = [member["eval_return"] for member in result["members"]]
    assert min(returns) >= 0.9, returns
    assert (tmp_path / "run" / "curves.png").stat().st_size > 10_000
    assert list((tmp_path / "run" / "videos").glob("open_loop_*.gif"))


def test_pong_debug(tmp_path):
    config = get_config("atari", "pong,debug")
    result = train(config, tmp_path / "run")
    assert result["env_step"] == config.steps
    assert result["update"] == 2 + (1_500 - 500) // 16
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert rows[-1]["frame"] == 4 * config.steps
    returns = [row["eval_return"] for row in rows if "eval_return" in row]
    assert returns and all(-21 <= value <= 21 for value in returns)


def test_full_size_updates_on_real_pong_frames(tmp_path):
    """Three updates at the paper's sizes, B = L = 50, from real frames."""
    config = get_config("atari", "pong")
    config.update({"prefill": 2_000, "steps": 2_008, "eval_episodes": 0, "log_every": 1})
    config.replay.capacity = 5_000
    result = train(config, tmp_path / "run")
    assert result["update"] == 3
    rows = [r for r in read_metrics(tmp_path / "run" / "metrics.jsonl") if "model_loss" in r]
    assert rows
    for row in rows:
        numbers = [value for value in row.values() if value is None or isinstance(value, float)]
        assert all(value is not None and np.isfinite(value) for value in numbers), row
