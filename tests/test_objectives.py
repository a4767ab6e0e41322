"""Objectives of the representation and returns of the behaviour that DreamerV1's paper compares."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mock_agents import fast_jit, mock_agent, mock_batch, mock_state

from dreamer_jax import agent as agent_lib
from dreamer_jax.behavior.returns import RETURNS
from dreamer_jax.model.distributions import from_noise
from dreamer_jax.model.objectives import info_nce
from dreamer_jax.model.world_model import world_model_loss

OTHERS = {"reward": 0.0, "discount": 0.0}  # scales of the other losses, switched off


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


class Learning:
    """The gradient of a world model's loss, with the scales of some of its terms."""

    def __init__(self, kl_scale=0.0, loss_scales=OTHERS, **changes):
        self.agent, self.hypers = mock_agent(
            "vector", kl_scale=kl_scale, loss_scales=loss_scales, **changes
        )
        self.params = mock_state(self.agent, self.hypers).params["model"]

    def grads(self):
        wm, batch = self.agent.wm, mock_batch("vector")
        noise = wm.rssm.latent.noise(jax.random.key(0), (4, 2))
        start = wm.rssm.initial((2,))

        def loss(params):
            return world_model_loss(
                wm, params, batch, noise, start, self.hypers, sample=from_noise
            )[0]

        return fast_jit(jax.grad(loss))(self.params)


def is_zero(tree):
    return not any(leaf.any() for leaf in jax.tree.leaves(tree))


def test_the_contrastive_objective_trains_states_and_the_state_model():
    learning = Learning(objective="contrastive")
    assert set(learning.params) == {"encoder", "rssm", "state_model", "reward", "discount"}
    grads = learning.grads()
    trained = {name for name, tree in grads.items() if not is_zero(tree)}
    assert trained == {"encoder", "rssm", "state_model"}


def test_the_contrastive_objective_has_a_scale():
    assert is_zero(Learning(objective="contrastive", loss_scales={**OTHERS, "state": 0.0}).grads())


def test_without_objective_rewards_train_states():
    learning = Learning(objective="reward_only", loss_scales={"reward": 1.0, "discount": 0.0})
    assert set(learning.params) == {"encoder", "rssm", "reward", "discount"}
    grads = learning.grads()
    assert {name for name, tree in grads.items() if not is_zero(tree)} == {
        "encoder", "rssm", "reward"
    }  # fmt: skip


@pytest.mark.parametrize("objective", ["contrastive", "reward_only"])
def test_without_a_decoder_an_agent_updates_and_reports_no_pictures(objective):
    agent, hypers = mock_agent("image", objective=objective)
    state = jax.eval_shape(functools.partial(agent_lib.init, agent), jax.random.key(0), hypers)
    batch = mock_batch("image")
    step = functools.partial(agent_lib.train_step, agent)
    new, _, metrics = jax.eval_shape(step, state, batch)
    assert jax.tree.structure(new) == jax.tree.structure(state)
    assert "image_loss" not in metrics
    report = functools.partial(agent_lib.report, agent, context=2)
    assert jax.eval_shape(report, state.params, batch, jax.random.key(0)) == {}


def test_reward_sum_is_the_sum_to_the_horizon():
    reward = jnp.array([[1.0], [2.0], [4.0], [8.0]])
    nonsense = jnp.full((4, 1), 100.0)
    target = RETURNS["reward_sum"](reward, nonsense, nonsense, 0.5)
    np.testing.assert_array_equal(target, [[15.0], [14.0], [12.0]])
