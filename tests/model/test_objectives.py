"""The objectives and returns that are compared in the paper of DreamerV1."""

import functools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mock_agents import loss_gradients, mock_agent, mock_batch, nonzero, train_step

from dreamer_jax.agent import agent as agent_lib
from dreamer_jax.agent.report import report
from dreamer_jax.behavior.returns import RETURNS
from dreamer_jax.metrics import PLOTTED
from dreamer_jax.model.objectives import info_nce


def test_info_nce_equals_a_loop():
    rng = np.random.default_rng(0)
    mean, feat = rng.normal(size=(2, 2, 3, 4))

    def density(state, prediction):
        return math.exp(-0.5 * np.square(state - prediction).sum())

    expected = np.zeros((2, 3))
    for b in range(2):
        for t in range(3):
            everywhere = sum(density(feat[b, t], m) for m in mean.reshape(-1, 4))
            expected[b, t] = math.log(density(feat[b, t], mean[b, t]) / everywhere)
    ours = info_nce(jnp.asarray(mean, jnp.float32), jnp.asarray(feat, jnp.float32))
    np.testing.assert_allclose(ours, expected, rtol=1e-4)
    assert ours.max() < 0


def test_info_nce_of_nothing_and_of_everything():
    feat = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 4)), jnp.float32)
    np.testing.assert_allclose(info_nce(jnp.zeros((2, 5, 4)), feat), -math.log(10), rtol=1e-5)
    far = jnp.eye(10).reshape(2, 5, 10) * 30  # no two states are near each other
    np.testing.assert_allclose(info_nce(far, far), 0, atol=1e-5)


@functools.cache
def gradients(objective):
    """Return the gradients of each loss alone: loss -> part of the world model -> parameters."""
    scales = {"state": 3.0, "reward": 0.0, "discount": 0.0}
    agent, hypers = mock_agent("vector", objective=objective, kl_scale=0.0, loss_scales=scales)
    return loss_gradients(agent, hypers, "vector")


def test_the_contrastive_objective_trains_states_and_the_state_model():
    grads = gradients("contrastive")
    assert set(grads) == {"model_loss", "state_loss", "reward_loss", "discount_loss", "kl_loss"}
    assert set(grads) <= set(PLOTTED)
    parts = {"encoder", "rssm", "state_model", "reward", "discount"}
    assert set(grads["state_loss"]) == parts
    assert nonzero(grads["state_loss"]) == {"encoder", "rssm", "state_model"}
    assert nonzero(grads["reward_loss"]) == {"encoder", "rssm", "reward"}


def test_the_contrastive_objective_has_a_scale():
    grads = gradients("contrastive")

    def three_times(ours, expected):
        np.testing.assert_allclose(ours, 3 * expected, rtol=1e-3, atol=1e-5)

    jax.tree.map(three_times, grads["model_loss"], grads["state_loss"])


def test_without_objective_rewards_train_states():
    grads = gradients("reward_only")
    assert set(grads) == {"model_loss", "reward_loss", "discount_loss", "kl_loss"}
    assert set(grads["model_loss"]) == {"encoder", "rssm", "reward", "discount"}
    assert nonzero(grads["reward_loss"]) == {"encoder", "rssm", "reward"}
    assert nonzero(grads["model_loss"]) == set()  # with scales of zero nothing is left


@pytest.mark.parametrize("objective", ["contrastive", "reward_only"])
def test_without_a_decoder_an_agent_updates_and_reports_no_pictures(objective):
    agent, hypers = mock_agent("image", objective=objective)
    state = jax.eval_shape(functools.partial(agent_lib.init, agent), jax.random.key(0), hypers)
    batch = mock_batch("image")
    step = functools.partial(train_step, agent)
    new, metrics = jax.eval_shape(step, state, batch)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert "image_loss" not in metrics
    shown = functools.partial(report, replace(agent, context=2))
    result = jax.eval_shape(shown, state, batch, jax.random.key(0))
    assert result.films == {} and set(result.error) == {"reward"}


def test_reward_sum_is_the_sum_to_the_horizon():
    reward = jnp.array([[1.0], [2.0], [4.0], [8.0]])
    nonsense = jnp.full((4, 1), 100.0)
    target = RETURNS["reward_sum"](reward, value=nonsense, discount=nonsense, lambda_=0.5)
    np.testing.assert_array_equal(target, [[15.0], [14.0], [12.0]])
