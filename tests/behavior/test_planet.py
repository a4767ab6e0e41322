"""Planning: the cross-entropy method on a known optimum, and its place in the agent."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mock_agents import mock_agent, mock_batch, mock_state, train_step

from dreamer_jax.agent import agent as agent_lib
from dreamer_jax.agent.members import make_members
from dreamer_jax.agent.report import report
from dreamer_jax.behavior.planet import CEM, imagined_reward
from dreamer_jax.errors import UsageError
from dreamer_jax.model import rssm as rssm_lib
from dreamer_jax.model.distributions import from_noise

H, START, COST = 4, np.array([0.8, -0.5]), 0.3
DYNAMICS = np.array([[1.0, 0.2], [0.0, 0.9]])
INPUT = np.array([[0.5, 0.0], [0.1, 0.6]])


def rewards(plans):
    """-|x|^2 - COST |a|^2 summed over the steps of x' = DYNAMICS x + INPUT a; plans [H, C, A]."""
    x, total = jnp.broadcast_to(START, plans.shape[1:]), 0.0
    for action in plans:
        x = x @ DYNAMICS.T + action @ INPUT.T
        total -= (x**2).sum(-1) + COST * (action**2).sum(-1)
    return total


def linear_quadratic_optimum():
    """By the Riccati recursion: cost-to-go x' P x after each step, gains, then the actions."""
    value, gains = np.zeros((2, 2)), []
    for _ in range(H):
        after = np.eye(2) + value
        gain = np.linalg.solve(
            COST * np.eye(2) + INPUT.T @ after @ INPUT, INPUT.T @ after @ DYNAMICS
        )
        value = DYNAMICS.T @ after @ (DYNAMICS - INPUT @ gain)
        gains.append(gain)
    x, actions = START, []
    for gain in reversed(gains):
        actions.append(-gain @ x)
        x = DYNAMICS @ x + INPUT @ actions[-1]
    return np.array(actions)


def test_cem_finds_the_linear_quadratic_optimum():
    optimum = linear_quadratic_optimum()
    assert np.abs(optimum).max() < 1  # else the limits of actions would bind
    cem = CEM(horizon=H, iterations=20, candidates=500, elites=50)
    plan = jax.jit(lambda key: cem(lambda plans, key: rewards(plans), key, 2))(jax.random.key(0))
    np.testing.assert_allclose(plan, optimum, atol=2e-3)
    best, found = (rewards(jnp.asarray(p, jnp.float32)[:, None])[0] for p in (optimum, plan))
    np.testing.assert_allclose(found, best, atol=1e-5)


def test_cem_plans_within_the_limits_of_actions():
    cem = CEM(horizon=1, iterations=20, candidates=200, elites=20)
    plan = cem(lambda plans, key: -((plans[0] - 3) ** 2).sum(-1), jax.random.key(0), 1)
    np.testing.assert_allclose(plan, [[1.0]], atol=1e-3)


def test_a_plan_whose_score_is_not_a_number_is_no_elite():
    cem = CEM(horizon=1, iterations=10, candidates=200, elites=20)

    def score(plans, key):
        x = plans[0, :, 0]
        return jnp.where(x > 0.5, jnp.nan, -jnp.square(x - 0.3))

    plan = cem(score, jax.random.key(0), 1)
    np.testing.assert_allclose(plan, [[0.3]], atol=1e-2)


PLANNING = {"horizon": 3, "iterations": 2, "candidates": 20, "elites": 5}


@functools.cache
def planning():
    agent, hypers = mock_agent("vector", "continuous", behavior="planet", planet=PLANNING)
    return agent, hypers, mock_state(agent, hypers)


def test_imagined_rewards_equal_a_loop():
    agent, _, state = planning()
    wm, model = agent.wm, state.params["model"]
    start = jax.tree.map(lambda x: x[0] + 0.3, wm.rssm.initial((1,)))
    plans = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (3, 4, 2)), jnp.float32)
    key = jax.random.key(5)
    ours = jax.jit(functools.partial(imagined_reward, wm))(model, start, plans, key)
    noise, expected = wm.rssm.latent.noise(key, (3, 4)), np.zeros(4)
    now = jax.tree.map(lambda x: jnp.broadcast_to(x, (4, *x.shape)), start)

    @jax.jit
    def step(now, action, noise):
        now, _ = rssm_lib.img_step(wm.rssm, model["rssm"], now, action, noise, sample=from_noise)
        return now, wm.predict_reward(model, wm.feature(now))

    for t in range(3):
        now, reward = step(now, plans[t], noise[t])
        expected += np.asarray(reward)
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def test_an_agent_that_plans_learns_its_world_model_alone():
    agent, hypers, state = planning()
    assert set(state.params) == {"model"} and state.slow_critic == {}
    shapes = jax.eval_shape(functools.partial(agent_lib.init, agent), jax.random.key(0), hypers)
    step = functools.partial(train_step, agent)
    new, metrics = jax.eval_shape(step, shapes, mock_batch("vector", "continuous"))
    assert jax.tree.structure(new) == jax.tree.structure(shapes)
    assert {"model_loss", "model_grad_norm"} < set(metrics) and "actor_loss" not in metrics


def test_every_member_and_environment_has_a_plan_of_its_own():
    agent, _, state = planning()
    fns = make_members(agent)
    params = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x]), state.params)
    keys = jnp.stack([jax.random.key(seed) for seed in (3, 4)])
    carry = fns.init_policy(keys, 3)
    obs = {"position": jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 3)), jnp.float32)}
    is_first = jnp.ones((2, 3), bool)
    _, action = jax.jit(fns.greedy_step)(params, carry, obs, is_first)
    assert action.shape == (2, 3, 2) and np.abs(action).max() <= 1
    assert len({tuple(row) for row in np.asarray(action).reshape(6, 2)}) == 6
    # Member 1 alone plans what it plans beside member 0.
    alone = jax.tree.map(lambda x: x[1:], (params, carry, obs, is_first))
    _, again = jax.jit(fns.greedy_step)(*alone)
    np.testing.assert_allclose(again[0], action[1], atol=1e-5)


def test_a_planner_has_neither_a_critic_nor_a_policy_that_imagines():
    agent, hypers = mock_agent("image", "continuous", behavior="planet", planet=PLANNING)
    state = jax.eval_shape(functools.partial(agent_lib.init, agent), jax.random.key(0), hypers)
    shown = functools.partial(report, replace(agent, context=2))
    batch = mock_batch("image", "continuous")
    film = jax.eval_shape(shown, state, batch, jax.random.key(0)).films["image"]
    assert film.prediction.shape == batch.obs["image"].shape and film.imagined is None
    assert agent_lib.value(agent, state.params, agent_lib.init_policy(agent, None, 3)) is None


def test_planning_is_for_continuous_actions():
    with pytest.raises(UsageError, match="continuous actions.*discrete; allowed: dreamer"):
        mock_agent("vector", "discrete", behavior="planet")
