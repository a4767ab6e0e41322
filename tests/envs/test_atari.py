"""Tests of Atari against the published protocol, frame by frame."""

import cv2
import numpy as np
import pytest
from env_doubles import LONG, fake_game

from dreamer_jax.envs import make_env
from dreamer_jax.envs.atari import NOOP, TIME_LIMIT, Atari, find_rom, games

# Sticky actions


def chi_square_of_runs(lengths, probability):
    """Return Pearson's statistic against P(length = k) = (1 - p) p^(k - 1), for 1 to 4 and more."""
    law = (1 - probability) * probability ** np.arange(4)
    law = np.append(law, 1 - law.sum())
    counts = np.bincount(np.minimum(lengths, 5), minlength=6)[1:]
    expected = law * len(lengths)
    return ((counts - expected) ** 2 / expected).sum()


def test_sticky_actions_repeat_a_quarter_of_the_frames():
    env = fake_game(LONG, noops=0, action_repeat=1)
    env.reset(seed=0)
    frames = 40_000
    chosen = 1 + np.arange(frames) % 17
    for action in chosen:
        env.step(action)
    executed = np.array(env.ale.acted)
    repeated = executed != chosen
    assert repeated.mean() == pytest.approx(0.25, abs=4 * np.sqrt(0.25 * 0.75 / frames))
    # An executed action is either the chosen one or the last executed one.
    previous = np.append(NOOP, executed[:-1])
    np.testing.assert_array_equal(executed[repeated], previous[repeated])
    lengths = np.diff(np.flatnonzero(np.diff(executed)))
    assert chi_square_of_runs(lengths, 0.25) < 18.47  # 99.9 % of 4 degrees of freedom
    assert chi_square_of_runs(lengths, 0.27) > 18.47


def test_sticky_actions_are_drawn_for_every_frame_and_reach_the_emulator():
    env = fake_game(LONG, noops=0)
    env.reset(seed=0)
    chosen = [1 + step % 17 for step in range(2500)]
    for action in chosen:
        env.step(action)
    executed = np.array(env.ale.acted).reshape(-1, 4)
    late = executed != np.array(chosen)[:, None]
    # Frame k still has the old action if all k draws so far repeated it.
    np.testing.assert_allclose(late.mean(0), 0.25 ** np.arange(1, 5), atol=0.035)
    assert (np.diff(late.astype(int), axis=1) <= 0).all()


def test_no_stickiness_and_its_bounds():
    env = fake_game(LONG, noops=0, sticky=0.0)
    env.reset(seed=0)
    for action in (3, 5):
        env.step(action)
    assert env.ale.acted == [3] * 4 + [5] * 4
    with pytest.raises(ValueError, match=r"sticky must be in \[0, 1\), not 1.0"):
        Atari("pong", sticky=1.0)


def test_the_last_action_outlives_the_episode():
    env = fake_game(LONG, noops=0, sticky=0.999)
    env.reset(seed=0)
    env._last_action = 7
    env.reset()
    env.step(3)
    assert env.ale.acted == [7] * 4


# Resets


def test_resets_play_one_to_thirty_noops_uniformly():
    env = fake_game(LONG, sticky=0.0)
    env.reset(seed=0)
    counts = []
    for _ in range(1500):
        before = len(env.ale.acted)
        env.reset()
        counts.append(len(env.ale.acted) - before)
    assert set(env.ale.acted) == {NOOP}
    histogram = np.bincount(counts, minlength=31)
    assert histogram[0] == 0 and len(histogram) == 31
    assert ((histogram[1:] - 50) ** 2 / 50).sum() < 58.3  # 99.9 % of 29 degrees of freedom


def test_noops_can_be_turned_off():
    env = fake_game(LONG, noops=0)
    for _ in range(3):
        env.reset()
    assert env.ale.acted == []


def test_game_over_among_the_noops_resets_again():
    env = fake_game(np.arange(5, dtype=np.uint8))
    for seed in range(20):
        env.reset(seed=seed)
        assert not env.ale.game_over(with_truncation=False)
    assert env.ale.resets > 20


# Frames


@pytest.mark.parametrize(
    ("screens", "expected"),
    [
        # Steps of 4 frames: frames 1-4, then 5-8.
        ([0, 90, 80, 70, 60, 50, 40, 30, 35, 0], [70, 35]),
        ([0, 9, 9, 9, 60, 50, 40, 30, 20], [60, 30]),  # over in the last frame
        ([0, 9, 9, 9, 60, 50, 55], [60, 55]),  # over in the second frame of the repeat
        (
            [0, 9, 9, 70, 60, 50],
            [70, 60],
        ),  # over in the first: the step before counts
        ([0, 9, 9, 70, 60, 65], [70, 65]),
        ([9, 5], [9]),  # over in the first frame after a reset
    ],
)
def test_maximum_of_the_last_two_frames_really_seen(screens, expected):
    env = fake_game(np.array(screens, np.uint8), noops=0)
    obs, _ = env.reset(seed=0)
    assert (obs == screens[0]).all()
    for count, brightness in enumerate(expected, start=1):
        obs, reward, terminated, truncated, _ = env.step(0)
        assert obs.shape == (64, 64, 1) and (obs == brightness).all()
        over = env.ale.time == len(screens) - 1
        assert (terminated, truncated) == (over, False)
        assert reward == env.ale.time - 4 * (count - 1)


def test_the_whole_episode_against_a_bare_emulator():
    """Without stickiness and no-ops, compare all results of a game of Breakout."""
    import ale_py

    env = Atari("breakout", sticky=0.0, noops=0)
    obs, _ = env.reset(seed=0)
    ale = ale_py.ALEInterface()
    ale.setFloat("repeat_action_probability", 0.0)
    ale.loadROM(find_rom("breakout")[1])
    ale.reset_game()
    screens = [ale.getScreenGrayscale()]
    rng, terminated, rewards, steps = np.random.default_rng(1), False, [], 0
    while not terminated:
        action = rng.integers(18)
        total = 0.0
        for _ in range(4):
            total += ale.act(ale.getLegalActionSet()[action])
            screens.append(ale.getScreenGrayscale())
            if ale.game_over():
                break
        last = np.maximum(screens[-1], screens[-2])
        obs, reward, terminated, truncated, _ = env.step(action)
        expected = cv2.resize(last, (64, 64), interpolation=cv2.INTER_AREA)
        np.testing.assert_array_equal(obs[..., 0], expected)
        assert (reward, terminated, truncated) == (total, ale.game_over(), False)
        rewards.append(reward)
        steps += 1
    assert steps > 20 and sum(rewards) > 0


# Time limit


def test_time_limit_is_truncation_and_counts_frames():
    env = Atari("pong", time_limit=42, noops=30)
    env.reset(seed=0)
    start = env.ale.getEpisodeFrameNumber()
    flags = [env.step(0)[2:4] for _ in range(11)]
    assert flags == [(False, False)] * 10 + [(False, True)]
    assert env.ale.getEpisodeFrameNumber() - start == 42
    env.reset()
    assert env.step(0)[2:4] == (False, False)


def test_the_default_time_limit_is_half_an_hour():
    env = fake_game(LONG, action_repeat=1000)
    assert TIME_LIMIT == 30 * 60 * 60
    env.reset(seed=0)
    flags = [env.step(0)[2:4] for _ in range(108)]
    assert flags == [(False, False)] * 107 + [(False, True)]


# Games


@pytest.mark.parametrize(
    ("game", "actions"), [("pong", 18), ("skiing", 9), ("lost_luggage", 9), ("carnival", 18)]
)
def test_full_action_set(game, actions):
    env = make_env(f"atari:{game}", 0, action_repeat=4)
    assert env.action_space.n == actions
    obs, _ = env.reset()
    assert obs["image"].shape == (64, 64, 1) and obs["image"].std() > 0
    for action in range(actions):
        env.step(action)
    assert env.render().shape[1:] == (160, 3)


def test_games_and_their_names():
    assert len(games()) >= 55 and {"ms_pacman", "jamesbond", "skiing"} <= set(games())
    assert "combat" not in games()  # would end the process
    assert find_rom("james_bond")[0] == "jamesbond"
    with pytest.raises(ValueError, match=r"unknown Atari game 'brakeout': there are \d+.*breakout"):
        make_env("atari:brakeout", 0)
    with pytest.raises(ValueError, match="unknown Atari game ''"):
        make_env("atari", 0)


def test_missing_rom_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("ALE_ROMS_DIR", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="'pong' is missing.*pip install.*ale-py"):
        make_env("atari:pong", 0)


def test_numbers_out_of_range():
    for wrong in ({"action_repeat": 0}, {"noops": -1}, {"time_limit": 0}, {"size": 0}):
        with pytest.raises(ValueError, match="must be at least"):
            Atari("pong", **wrong)


def test_the_emulator_is_silent(capfd):
    env = Atari("pong")
    env.reset(seed=0)
    env.step(0)
    assert capfd.readouterr() == ("", "")
