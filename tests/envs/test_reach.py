"""Tests of Reach, which derive the numbers in its docstring."""

import numpy as np
import pytest

from dreamer_jax.envs import make_env
from dreamer_jax.envs.reach import HIGH, LOW, STEPS, TARGET, Reach
from dreamer_jax.envs.vector.snapshot import restore, save_parts

BEST = 28.097  # from the docstring


def started(dot):
    env = Reach()
    env.reset(seed=0)
    env.set_state(env.get_state() | {"dot": dot})
    return env


def play(env, policy):
    """Return the return of the rest of an episode under a policy on the environment's state."""
    total, truncated = 0.0, False
    while not truncated:
        _, reward, terminated, truncated, _ = env.step(policy(env.get_state()))
        assert not terminated
        total += reward
    return total


def straight(state):
    """Close both distances as fast as possible."""
    return np.clip(np.subtract(TARGET, state["dot"]) / 3.0, -1.0, 1.0)


def best_return(dx, dy):
    t = np.arange(1, STEPS + 1)
    distance = np.hypot(np.maximum(dx - 3.0 * t, 0.0), np.maximum(dy - 3.0 * t, 0.0))
    return np.maximum(1.0 - distance / 24.0, 0.0).sum()


def test_best_mean_return_over_all_starts_is_as_stated():
    gaps = np.abs(np.arange(LOW, HIGH + 1) - TARGET[0])
    returns = [best_return(dx, dy) for dx in gaps for dy in gaps]
    assert np.mean(returns) == pytest.approx(BEST, abs=5e-4)
    assert f"return {BEST};" in " ".join(Reach.__doc__.split())


def test_no_policy_does_better_from_a_start_by_brute_force():
    """Compare every sequence of 4 actions from a grid, after 26 steps, with the closed form."""
    levels = np.linspace(-1.0, 1.0, 5)
    actions = np.stack(np.meshgrid(levels, levels), -1).reshape(-1, 2)  # [25, 2]
    gaps = np.array([[7.5, 4.0]])  # target minus dot, for every sequence so far
    returns = np.zeros(1)
    for _ in range(4):
        gaps = (gaps[:, None] - 3.0 * actions).reshape(-1, 2)
        rewards = np.maximum(1.0 - np.linalg.norm(gaps, axis=-1) / 24.0, 0.0)
        returns = returns.repeat(len(actions)) + rewards
    env = started(dot=(24.5, 28.0))
    env.set_state(env.get_state() | {"step": STEPS - 4})
    closed = play(env, straight)
    assert closed >= returns.max() - 1e-12
    # By hand: gaps (4.5, 1), (1.5, 0), (0, 0), (0, 0).
    assert closed == pytest.approx(4.0 - (np.hypot(4.5, 1.0) + 1.5) / 24.0)


def test_the_straight_policy_gets_the_best_return_from_random_starts():
    env = Reach()
    env.reset(seed=0)
    for _ in range(20):
        env.reset()
        state = env.get_state()
        dx, dy = np.abs(np.subtract(TARGET, state["dot"]))
        assert play(env, straight) == pytest.approx(best_return(dx, dy))


def test_random_play_is_far_below_the_best():
    env, rng = make_env("reach", 0), np.random.default_rng(0)
    returns = []
    for _ in range(400):
        env.reset()
        returns.append(sum(env.step(rng.uniform(-1.0, 1.0, 2))[1] for _ in range(STEPS)))
    error = np.std(returns) / np.sqrt(len(returns))
    assert np.mean(returns) == pytest.approx(7.3, abs=4 * error)
    assert np.mean(returns) < 0.3 * BEST
    assert min(returns) >= 0.0


def test_moves_are_in_pixels_and_end_at_the_bounds():
    env = started(dot=(10.0, 54.0))
    _, reward, *_ = env.step(np.array([0.5, -0.25], np.float32))
    assert env.get_state()["dot"] == (11.5, 53.25)
    assert reward == 0.0  # 29.5 pixels away
    _, reward, *_ = started(dot=(26.0, 33.0)).step(np.array([0.5, -0.25], np.float32))
    assert reward == pytest.approx(1.0 - np.hypot(4.5, 0.25) / 24.0)
    for _ in range(3):
        _, reward, *_ = env.step(np.array([-1.0, 1.0], np.float32))
    assert env.get_state()["dot"] == (8.0, 56.0)
    assert reward == 0.0


def test_draws_what_its_docstring_says():
    image = started(dot=(20.0, 40.0)).step(np.zeros(2))[0]
    assert Reach().observation_space.contains(image)
    y, x = np.mgrid[:64, :64] + 0.5
    for channel, (left, top) in enumerate([TARGET, (20, 40), (20, 40)]):
        spot = np.exp(-((x - left) ** 2 + (y - top) ** 2) / (2 * 8.0**2))
        np.testing.assert_allclose(image[..., channel], 128 + 127 * spot, rtol=0, atol=0.5 + 1e-9)


def test_moves_of_a_tenth_of_a_pixel_are_seen_everywhere():
    for corner in [(LOW, LOW), (HIGH, HIGH), (LOW, HIGH), (33.3, 21.7)]:
        env = started(dot=corner)
        inwards = np.sign(32.0 - np.asarray(corner)) / 30.0
        first, second = env.step(np.zeros(2))[0], env.step(inwards)[0]
        assert (first[..., 0] == second[..., 0]).all()
        assert (first != second).any()


def test_starts_cover_the_whole_range_and_the_end_is_the_end():
    env = Reach()
    env.reset(seed=0)
    starts = []
    for _ in range(500):
        env.reset()
        starts.append(env.get_state()["dot"])
    assert (np.min(starts, 0) == LOW).all() and (np.max(starts, 0) == HIGH).all()
    assert play(env, lambda state: np.zeros(2)) >= 0.0
    with pytest.raises(ValueError, match="episode is over"):
        env.step(np.zeros(2))


def test_restored_environment_goes_on_identically():
    actions = np.random.default_rng(0).uniform(-1.0, 1.0, (100, 2))

    def outcomes(env):
        for action in actions:
            obs, reward, _, truncated, _ = env.step(action)
            yield obs["image"].tobytes(), reward
            if truncated:
                yield env.reset()[0]["image"].tobytes()

    env = make_env("reach", 3)
    env.reset()
    for action in actions[:17]:
        env.step(action)
    data = save_parts(env)
    expected = list(outcomes(env))
    assert list(outcomes(restore(make_env("reach", 4), data))) == expected
    assert list(outcomes(restore(env, data))) == expected
