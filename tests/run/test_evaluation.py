"""Evaluation: the bound on steps, the number of environments, and their isolation."""

import os
import time
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from conftest import SHALLOW, make_tiny_config
from gymnasium import spaces

from dreamer_jax import train
from dreamer_jax.run.evaluation import play_episodes, summarize
from dreamer_jax.run.setup import build


class Clock(gymnasium.Env):
    """Episodes of a random length whose reward is their time, and which count what is open."""

    observation_space = spaces.Box(0, 1e6, (1,), np.float32)
    action_space = spaces.Discrete(2)
    open, most = 0, 0

    def __init__(self, endless=False, fails_at=None):
        self.endless, self.fails_at = endless, fails_at
        Clock.open += 1
        Clock.most = max(Clock.most, Clock.open)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time, self.length = 0, int(self.np_random.integers(3, 12))
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.time += 1
        if self.time == self.fails_at:
            raise OSError("the clock has stopped")
        ended = self.time >= self.length and not self.endless
        return np.full(1, self.time, np.float32), float(self.time + action), ended, False, {}

    def close(self):
        Clock.open -= 1


def act_by_step(params, carry, obs, is_first):
    """Count the steps of the carry, and act by that alone, as noise would."""
    action = np.eye(2)[np.full(is_first.shape, carry % 2)]
    return carry + 1, action


def clock_setup(make_env, **env):
    config = make_tiny_config(task="gym:CartPole-v1", seeds=2, eval_steps=30)
    config.env.update(env)
    setup = build(config, make_env)
    fns = setup.fns._replace(
        init_policy=lambda keys, envs: 0,
        greedy_step=act_by_step,
        predict_reward=lambda params, carry: np.zeros(10),  # of at most 2 members with 5 episodes
        value=lambda params, carry: None,
    )
    return replace(setup, fns=fns)


def no_fault(row, text):
    raise AssertionError(text)


def test_the_number_of_environments_is_bounded_and_changes_no_result():
    Clock.most = Clock.open = 0
    found = []
    for most in (20, 10, 3, 1):
        Clock.most = 0
        setup = clock_setup(lambda seed: Clock(), eval_envs=most)
        found.append(play_episodes(setup, None, 5, on_fault=no_fault))
        assert (Clock.open, Clock.most) == (0, min(most, 10))
    for other in found[1:]:
        np.testing.assert_array_equal(other.returns, found[0].returns)
        np.testing.assert_array_equal(other.lengths, found[0].lengths)
    assert len(set(found[0].lengths.ravel())) > 3


def test_critic_and_model_are_compared_with_transformed_rewards():
    """Also where an episode starts again, and more are played than environments are open."""
    broken = [True]

    def make_env(seed):
        return Clock(fails_at=3 if broken and broken.pop() else None)

    setup = clock_setup(make_env, eval_envs=3)
    broken[:] = [True]
    episodes = 4

    def value(params, carry):
        return np.full((2, episodes), float(carry)) + np.array([[0.0], [10.0]])

    predicted = np.arange(8).reshape(2, episodes) / 10  # of each row, in every step
    fns = setup.fns._replace(value=value, predict_reward=lambda params, carry: predicted)
    setup = replace(setup, fns=fns)
    played = play_episodes(setup, None, episodes, on_fault=lambda row, text: None)
    steps = np.arange(1, 13)
    rewards = 0.999**steps * np.tanh(steps + (steps - 1) % 2)
    lengths = played.lengths.ravel()
    expected = np.array([rewards[:length].sum() for length in lengths])
    # The first environment fails in its third step: the carry has seen four when it starts again,
    # and its actions have moved on by three.
    assert played.values.tolist() == [[4.0] + [1.0] * 3, [11.0] * 4]
    again = steps + steps % 2
    expected[0] = (0.999**steps * np.tanh(again))[: lengths[0]].sum()
    np.testing.assert_allclose(played.discounted.ravel(), expected, rtol=1e-5)
    reached = [np.tanh(again)] + [np.tanh(steps + (steps - 1) % 2)] * 7
    errors = np.square(np.stack(reached) - predicted.reshape(8, 1))
    squares = np.array([e[:length].sum() for e, length in zip(errors, lengths, strict=True)])
    np.testing.assert_allclose(played.reward_errors.ravel(), squares, rtol=1e-5)
    first, _ = summarize(setup, played)
    assert first["eval_value"] == np.mean(played.values[0])
    error = squares[:4].sum() / lengths[:4].sum()
    np.testing.assert_allclose(first["eval_reward_error"], error, rtol=1e-5)
    assert first["critic_bias"] == first["eval_value"] - np.mean(played.discounted[0])


def test_without_a_critic_there_is_no_bias_of_it():
    setup = clock_setup(lambda seed: Clock())
    assert (
        "critic_bias" not in summarize(setup, play_episodes(setup, None, 2, on_fault=no_fault))[0]
    )


def test_endless_episodes_are_cut():
    setup = clock_setup(lambda seed: Clock(endless=True))
    played = play_episodes(setup, None, 2, on_fault=no_fault)
    assert played.lengths.tolist() == [[30, 30], [30, 30]] and played.cut.all()
    assert [record["eval_cut"] for record in summarize(setup, played)] == [2, 2]
    setup = clock_setup(lambda seed: Clock())
    assert "eval_cut" not in summarize(setup, play_episodes(setup, None, 2, on_fault=no_fault))[0]


def test_a_failing_environment_plays_its_episode_again():
    faults, broken = [], [True]

    def make_env(seed):
        return Clock(fails_at=2 if broken and broken.pop() else None)

    setup = clock_setup(lambda seed: Clock(), eval_envs=3)
    setup = replace(setup, make_env=clock_setup(make_env).make_env)
    broken[:] = [True]
    played = play_episodes(setup, None, 2, on_fault=lambda row, text: faults.append((row, text)))
    assert [row for row, _ in faults] == [0] and "the clock has stopped" in faults[0][1]
    assert (played.lengths >= 3).all()


def test_evaluation_in_a_process_of_its_own_is_the_same():
    setup = clock_setup(None)  # the worker of a function of this file would import JAX
    here = play_episodes(setup, None, 2, on_fault=no_fault)
    there = play_episodes(setup, None, 2, on_fault=no_fault, workers=1)
    np.testing.assert_array_equal(here.returns, there.returns)


def test_an_environment_that_is_asked_for_its_spaces_cannot_end_the_run():
    config = make_tiny_config(**SHALLOW)
    config.env.workers = 1
    with pytest.raises(RuntimeError, match="worker 0 .* died with exit code 3"):
        build(config, lambda seed: os._exit(3))


def test_evaluation_environments_that_hang_are_replaced(tmp_path):
    marker = tmp_path / "hung"

    class Hangs(gymnasium.Env):  # local, and so sent to a worker by value
        observation_space, action_space = spaces.Box(0, 1, (1,)), spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return np.zeros(1, np.float32), {}

        def step(self, action):
            if not marker.exists():
                marker.touch()
                time.sleep(1000)
            return np.zeros(1, np.float32), float(os.getpid()), True, False, {}

    setup, faults = clock_setup(lambda seed: Hangs(), timeout=1.0), []
    note = {"on_fault": lambda row, text: faults.append(text)}
    played = play_episodes(setup, None, 1, workers=1, **note)
    assert len(faults) == 1 and "hung for 1" in faults[0]
    assert len(set(played.returns.ravel()) - {os.getpid()}) == 1  # of the worker, for all members


ENGINE = []  # what all environments of a process share


class Driven(Clock):
    """An environment that ends what all of its process need when it is closed."""

    def __init__(self):
        super().__init__()
        ENGINE[:] = [True]

    def step(self, action):
        if not ENGINE:
            raise RuntimeError("the engine has been shut down")
        return super().step(action)

    def close(self):
        ENGINE.clear()


@pytest.mark.slow
def test_closing_evaluation_environments_leaves_those_of_training_alone(tmp_path):
    config = make_tiny_config(**{"steps": 80, "eval_every": 20} | SHALLOW)
    config.env.update({"eval_workers": None, "max_faults": 0})
    assert train(config, tmp_path / "run", lambda seed: Driven())["finished"]
    assert not (tmp_path / "run" / "faults.log").exists()


@pytest.mark.slow
def test_what_cannot_be_sent_to_a_process_is_evaluated_in_this_one(tmp_path, capsys):
    config = make_tiny_config(**{"steps": 48} | SHALLOW)
    config.env.eval_workers = None
    stream = (number for number in ())
    assert train(config, tmp_path / "run", lambda seed: stream and Clock())["finished"]
    assert "because the environment cannot be sent to another (" in capsys.readouterr().out
