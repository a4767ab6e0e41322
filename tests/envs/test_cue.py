"""Cue: its observations and rewards by hand, its state, and the names that are refused."""

import numpy as np
import pytest

from dreamer_jax.configs import get_config
from dreamer_jax.envs import make_env
from dreamer_jax.envs.cue import Cue
from dreamer_jax.errors import UsageError


def episode(env, choice, seed=None):
    """Return the observations and rewards of an episode with the same action at every step."""
    observations, rewards, terminated = [env.reset(seed=seed)[0]], [], False
    while not terminated:
        observation, reward, terminated, truncated, _ = env.step(choice)
        observations.append(observation)
        rewards.append(reward)
        assert not truncated
    return np.array(observations), rewards


def test_the_cue_is_shown_once_and_its_number_is_rewarded_after_the_delay():
    cues = set()
    for seed in range(10):
        observations, rewards = episode(Cue(3), choice=1, seed=seed)
        cue = int(observations[0, 1])
        cues.add(cue)
        expected = np.zeros((5, 3))
        expected[0, cue] = 1
        expected[3, 2] = 1  # the choice is due
        np.testing.assert_array_equal(observations, expected)
        assert rewards == [0, 0, 0, 1.0 if cue == 1 else -1.0]
    assert cues == {0, 1}


def test_nothing_but_the_first_observation_depends_on_the_cue():
    one, other = (np.array(episode(Cue(5), 0, seed)[0]) for seed in (0, 1))
    seeds = iter(range(2, 50))
    while np.array_equal(one[0], other[0]):
        other = episode(Cue(5), 0, next(seeds))[0]
    np.testing.assert_array_equal(one[1:], other[1:])


def test_an_ended_episode_is_not_stepped():
    env = Cue(1)
    with pytest.raises(ValueError, match="call reset"):
        env.step(0)
    episode(env, 0, seed=0)
    with pytest.raises(ValueError, match="call reset"):
        env.step(0)


def test_a_restored_environment_goes_on_identically():
    env, copy = Cue(4), Cue(4)
    env.reset(seed=5)
    env.step(0)
    copy.set_state(env.get_state())
    for _ in range(4):
        assert np.array_equal(env.step(1)[0], copy.step(1)[0])
    assert [episode(env, 0)[1] for _ in range(9)] == [episode(copy, 0)[1] for _ in range(9)]


@pytest.mark.parametrize("task", ["cue", "cue:0", "cue:-1", "cue:2.5", "cue:far"])
def test_delays_that_are_none_are_refused(task):
    with pytest.raises(UsageError, match="allowed: a whole number of steps of at least 1"):
        make_env(task, 0)


@pytest.mark.parametrize(
    ("arg", "message"),
    [
        ("0", "'0'; allowed: a delay of at least 1 step and a variant"),
        ("plain", "'plain'; allowed"),
        ("3,pain", "'pain'.*plain"),
    ],
)
def test_unknown_arguments_of_the_config_are_refused(arg, message):
    with pytest.raises(UsageError, match=message):
        get_config("cue", arg)
