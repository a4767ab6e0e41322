"""Environments of gymnax and craftax, where these packages are installed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax.envs.jax_env import AdaptedEnv, make_jax_env
from dreamer_jax.envs.registry import EnvSettings
from dreamer_jax.errors import UsageError

KEY = jax.random.key(0)


def make(task, **settings):
    settings = EnvSettings(**settings)
    return AdaptedEnv(make_jax_env(task, settings), settings)


def play(env, action, steps):
    """Return the outcomes of the same action until an episode ends."""
    step, (state, obs) = jax.jit(env.step), jax.jit(env.reset)(KEY)
    observations, outcomes = [obs], []
    for i in range(steps):
        state, obs, *outcome = step(jax.random.fold_in(KEY, i), state, action)
        observations.append(obs)
        outcomes.append([float(x) for x in outcome])
        if outcome[1] or outcome[2]:
            break
    return observations, outcomes


def test_ids_are_checked():
    for package, task in (("gymnax", "gymnax:Breakout"), ("craftax", "craftax:Classic")):
        pytest.importorskip(package)
        with pytest.raises(UsageError, match=f"unknown {package} id .* Did you mean"):
            make(task)


def test_time_limits_of_gymnax_truncate():
    pytest.importorskip("gymnax")
    observations, outcomes = play(make("gymnax:MountainCar-v0"), jnp.int32(1), 300)
    assert len(outcomes) == 200 and outcomes[-1] == [-1, 0, 1]
    # The last observation is the episode's own, a step away from the one before.
    last, before = (observations[i]["vector"] for i in (-1, -2))
    assert float(jnp.abs(last - before).max()) < 0.01


def test_ends_of_gymnax_terminate():
    pytest.importorskip("gymnax")
    _, outcomes = play(make("gymnax:CartPole-v1"), jnp.int32(1), 100)
    assert 5 < len(outcomes) < 20 and outcomes[-1][1:] == [1, 0]
    _, outcomes = play(make("gymnax:CartPole-v1", time_limit=4), jnp.int32(1), 100)
    assert len(outcomes) == 4 and outcomes[-1][1:] == [0, 1]


def test_boards_of_minatar():
    pytest.importorskip("gymnax")
    env = make("gymnax:Breakout-MinAtar")
    assert env.observation_space["vector"].shape == (400,) and env.action_space.n == 3
    observations, outcomes = play(env, jnp.int32(0), 30)
    assert outcomes[-1][1:] == [1, 0]
    board = np.asarray(observations[0]["vector"]).reshape(10, 10, 4)
    assert board[..., 3].sum() == 30 and board[9, 4, 0] == 1  # bricks and paddle
    grids = make("gymnax:Breakout-MinAtar", grids=".*")
    assert np.array_equal(jax.jit(grids.reset)(KEY)[1]["vector"], board == 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("view", "key", "shape"), [("Symbolic", "vector", (1345,)), ("Pixels", "image", (64, 64, 3))]
)
def test_craftax(view, key, shape):
    pytest.importorskip("craftax")
    env = make(f"craftax:Craftax-Classic-{view}-v1")
    assert env.observation_space[key].shape == shape and env.action_space.n == 17
    observations, outcomes = play(env, jnp.int32(0), 5)
    assert len(outcomes) == 5 and not any(any(outcome[1:]) for outcome in outcomes)
    assert observations[-1][key].shape == shape
    assert np.isfinite(np.asarray(observations[-1][key], np.float32)).all()
