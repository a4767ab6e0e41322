"""Agents read from work directories: `load`, and evaluation of one member."""

import numpy as np
import pytest
from conftest import SHALLOW, make_tiny_config
from probe_env import Probe, probe_config

from dreamer_jax import evaluate, load, train
from dreamer_jax.errors import UsageError


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "catch"
    config = make_tiny_config(seeds=(4, 7), length=8, steps=80, checkpoint_every=60, **SHALLOW)
    train(config, workdir)
    return workdir


def play(agent, seed=0):
    """Return the actions and rewards of an episode."""
    env = agent.make_env(seed)
    obs, _ = env.reset()
    agent.reset()
    actions, rewards, ended = [], [], False
    while not ended:
        actions.append(agent.policy(obs))
        obs, reward, terminated, truncated, _ = env.step(actions[-1])
        rewards.append(reward)
        ended = terminated or truncated
    env.close()
    return actions, rewards


def test_load_gives_an_agent_that_plays(run):
    agent = load(run, member=1)
    assert (agent.member, agent.seed, agent.env_step) == (1, 7, 80)
    actions, rewards = play(agent)
    assert len(actions) == 7 and all(type(action) is int for action in actions)
    assert all(action in agent.action_space for action in actions)
    assert sum(rewards) in (-1.0, 1.0)
    assert play(load(run, member=1)) == (actions, rewards)  # nothing but the checkpoint decides


def test_recurrent_state_is_kept_and_reset(run):
    agent = load(run, member=0)
    env = agent.make_env()
    obs, _ = env.reset()
    deter = lambda: np.array(agent._carry.state.deter)  # noqa: E731
    agent.policy(obs)
    first = deter()
    agent.policy(obs)
    assert not np.array_equal(deter(), first)
    agent.reset()
    agent.policy(obs)
    assert np.array_equal(deter(), first)


@pytest.mark.slow
def test_continuous_actions(tmp_path):
    config = probe_config(steps=48)
    make_env = lambda seed: Probe()  # noqa: E731
    train(config, tmp_path / "run", make_env)
    agent = load(tmp_path / "run", make_env=make_env)
    obs, _ = agent.make_env().reset()
    for sample in (False, True):
        action = agent.policy(obs, sample=sample)
        assert action.shape == (2,) and action.dtype == np.float32 and (abs(action) <= 1).all()
    with pytest.raises(UsageError, match="obs\\['speed'\\] is missing; expected \\(5,\\)"):
        agent.policy({"camera": obs["camera"]})
    with pytest.raises(UsageError, match="obs\\['camera'\\] is \\(32, 64, 3\\)"):
        agent.policy({**obs, "camera": obs["camera"][:32]})


def test_one_member_scores_as_it_does_among_all(run):
    together, alone = evaluate(run, episodes=4), evaluate(run, episodes=4, member=1)
    assert [record["member"] for record in together["members"]] == [0, 1]
    assert alone["members"] == [together["members"][1]]


def test_an_older_checkpoint(run):
    assert evaluate(run, episodes=1, step=60)["env_step"] == 60
    assert load(run, step=60).env_step == 60
    with pytest.raises(UsageError, match="step is 61; .* has: \\[80, 60\\]"):
        load(run, step=61)


@pytest.mark.parametrize("member", [2, -1])
def test_members_that_do_not_exist(run, member):
    message = rf"members are \[{member}\]; allowed: .*: 0 \(seed 4\), 1 \(seed 7\)"
    with pytest.raises(UsageError, match=message):
        load(run, member=member)
    with pytest.raises(UsageError, match=message):
        evaluate(run, member=member)


def test_nothing_to_load(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run in"):
        load(tmp_path)
