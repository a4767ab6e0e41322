"""Complete updates of one agent on random data, its losses, reports, policy and sizes."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_tiny_config
from mock_agents import (
    largest_difference,
    mock_agent,
    mock_batch,
    mock_state,
    shared_agent,
)

from dreamer_jax.agent import agent as agent_lib
from dreamer_jax.agent.build import make_agent
from dreamer_jax.behavior.dreamer import Dreamer
from dreamer_jax.config.config import default_config
from dreamer_jax.config.sweep import member_hypers
from dreamer_jax.errors import UsageError
from dreamer_jax.model.distributions import from_noise, take_mode
from dreamer_jax.model.world_model import (
    REWARD_TRANSFORMS,
    log_probs,
    prepare_action,
    prepare_obs,
    world_model_loss,
)
from dreamer_jax.run.setup import count_parameters
from dreamer_jax.runtime import make_backend
from dreamer_jax.types import ActionSpec


class Trained:
    """A vector agent, its initial state, and its compiled update on one batch."""

    def __init__(self):
        self.agent, hypers, self.run = shared_agent()
        self.hypers = hypers.replace(model_lr=3e-3, actor_lr=3e-3, critic_lr=3e-3)
        init = jax.jit(functools.partial(agent_lib.init, self.agent))
        self.state = init(jax.random.key(3), self.hypers)
        self.batch = mock_batch("vector", b=4, t=6)
        self.states, self.metrics = [self.state], []
        for _ in range(60):
            state, metrics = self.run(self.states[-1], self.batch)
            self.states.append(state)
            self.metrics.append({name: float(value) for name, value in metrics.items()})


@pytest.fixture(scope="module")
def trained():
    return Trained()


def test_one_update_changes_every_parameter(trained):
    before, after = trained.states[:2]
    for group in ("model", "actor", "critic"):
        for path, old in jax.tree_util.tree_leaves_with_path(before.params[group]):
            new = dict(jax.tree_util.tree_leaves_with_path(after.params[group]))[path]
            assert (old != new).any(), f"{group}{jax.tree_util.keystr(path)}"
    assert before.update == 0 and after.update == 1
    assert (jax.random.key_data(before.key) != jax.random.key_data(after.key)).any()
    jax.tree.map(np.testing.assert_array_equal, before.hypers, after.hypers)


def test_metrics_are_finite_scalars(trained):
    assert set(trained.metrics[0]) == {
        "model_loss", "kl_loss", "kl", "prior_entropy", "posterior_entropy", "position_loss",
        "reward_loss", "discount_loss", "model_grad_norm", "actor_loss", "actor_entropy",
        "actor_entropy_scale", "actor_grad_mix", "actor_grad_norm", "imagined_reward",
        "imagined_reward_std", "critic_loss", "critic", "critic_slow", "critic_target",
        "critic_grad_norm",
    }  # fmt: skip
    assert np.isfinite([list(metrics.values()) for metrics in trained.metrics]).all()


def test_the_slow_critic_is_copied_after_update_0_and_then_periodically(trained):
    # State k is the one after update k - 1; with a period of 3 copies follow updates 0, 3 and 6.
    assert trained.agent.behaviors[0].slow_critic_every == 3
    for k in range(1, 9):
        state = trained.states[k]
        source = 1 + (k - 1) // 3 * 3
        expected = trained.states[source].params["critic"]
        jax.tree.map(np.testing.assert_array_equal, state.slow_critic, expected)
        is_copy = largest_difference(state.slow_critic, state.params["critic"]) == 0
        assert is_copy == (k == source)


def test_sixty_updates_on_one_batch_learn_it(trained):
    first, last = trained.metrics[0], trained.metrics[-1]
    assert last["model_loss"] < 0.8 * first["model_loss"]
    # 0.9189385 per number is what remains of a perfect prediction.
    for name, floor in (("reward_loss", 0.9189385), ("position_loss", 3 * 0.9189385)):
        assert last[name] - floor < 0.5 * (first[name] - floor)


def test_the_same_state_and_batch_give_the_same_update(trained):
    repeated, _ = trained.run(trained.state, trained.batch)
    assert largest_difference(repeated.params, trained.states[1].params) == 0
    # Another key is other noise, and so another update.
    other = trained.state.replace(key=jax.random.key(1))
    other, _ = trained.run(other, trained.batch)
    assert largest_difference(other.params, trained.states[1].params) > 1e-5


def test_a_behavior_must_report_each_of_its_groups():
    agent, hypers = mock_agent("vector")

    class Forgetful(Dreamer):
        def learn(self, *args, **kwargs):
            state, updates = super().learn(*args, **kwargs)
            return state, {"actor": updates["actor"]}

    ac, every = agent.behaviors[0].ac, agent.behaviors[0].slow_critic_every
    agent = replace(agent, behaviors=(Forgetful(ac, every),))
    message = r"Forgetful.learn returned .* groups \['actor'\]; required: \['actor', 'critic'\]"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(
            functools.partial(agent_lib.train_step, agent), mock_state(agent, hypers), mock_batch()
        )


@functools.cache
def losses_of(name="plain"):
    """Return loss, metrics, log-likelihoods [B, T] by key, and predictions of a variant."""
    agent, hypers = mock_agent("vector", **VARIANTS[name])
    wm, batch, params = agent.wm, mock_batch(), mock_state(agent, hypers).params["model"]
    noise, start = jnp.zeros((4, 2, 4)), wm.rssm.initial((2,))

    @jax.jit
    def run(batch):
        loss, (states, metrics) = world_model_loss(
            wm, params, batch, noise, start, hypers, sample=take_mode
        )
        feat, obs = wm.feature(states), prepare_obs(batch.obs)
        args = feat, obs, batch.reward, batch.is_terminal, hypers.discount
        predicted = {
            "reward": wm.predict_reward(params, feat),
            "discount": wm.predict_discount(params, feat, hypers.discount),
        }
        return loss, metrics, log_probs(wm, params, *args), predicted

    return jax.device_get(run(batch))


VARIANTS = {
    "plain": {"reward_transform": "none"},
    "scaled": {
        "reward_transform": "tanh",
        "discount": 0.9,
        "loss_scales": {"vector": 0.5, "reward": 2.0, "discount": 3.0},
        "kl_scale": 0.7,
    },
    "no discount head": {"discount": 0.9, "discount_head": {"enabled": False}},
}


def test_the_reward_is_predicted_after_its_transform():
    rewards = jnp.array([-2.0, 0.0, 0.5])
    for name, expected in {
        "none": [-2.0, 0.0, 0.5],
        "sign": [-1.0, 0.0, 1.0],
        "tanh": [-0.9640276, 0.0, 0.4621172],
    }.items():
        np.testing.assert_allclose(REWARD_TRANSFORMS[name](rewards), expected, rtol=1e-6)
    reward = mock_batch().reward
    for variant, name in (("plain", "none"), ("scaled", "tanh")):
        _, metrics, found, predicted = losses_of(variant)
        target = np.asarray(REWARD_TRANSFORMS[name](reward))
        expected = -0.5 * (predicted["reward"] - target) ** 2 - 0.9189385
        np.testing.assert_allclose(found["reward"], expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(metrics["reward_loss"], -expected.mean(), rtol=1e-4)


def test_only_terminal_steps_are_labelled_without_a_future():
    batch = mock_batch()
    cut = np.asarray(batch.is_last & ~batch.is_terminal)
    assert cut.sum() == 1 and batch.is_terminal.sum() == 1
    _, _, found, predicted = losses_of("scaled")
    p = predicted["discount"]
    # The time limit is labelled gamma, like any step in the middle of an episode.
    label = np.where(batch.is_terminal, 0.0, 0.9)
    expected = label * np.log(p) + (1 - label) * np.log(1 - p)
    np.testing.assert_allclose(found["discount"], expected, rtol=1e-3, atol=1e-5)


def test_without_a_discount_head_it_is_neither_trained_nor_asked():
    _, metrics, found, predicted = losses_of("no discount head")
    np.testing.assert_array_equal(predicted["discount"], np.full((2, 4), np.float32(0.9)))
    assert "discount" not in found and "discount_loss" not in metrics
    assert "discount_loss" in losses_of()[1]


def test_the_loss_is_the_weighted_sum_of_its_parts():
    loss, metrics, _, _ = losses_of("scaled")
    parts = {"position": 0.5, "reward": 2.0, "discount": 3.0}
    expected = sum(scale * metrics[f"{key}_loss"] for key, scale in parts.items())
    np.testing.assert_allclose(loss, expected + 0.7 * metrics["kl_loss"], rtol=1e-5)


def test_observations_and_actions_are_prepared():
    obs = {"image": jnp.array([0, 51, 255], jnp.uint8), "vector": jnp.array([7.0])}
    prepared = prepare_obs(obs)
    np.testing.assert_allclose(prepared["image"], [-0.5, -0.3, 0.5], atol=1e-7)
    np.testing.assert_array_equal(prepared["vector"], [7.0])
    onehot = prepare_action(jnp.array([[2, -1]]), 3)
    np.testing.assert_array_equal(onehot, [[[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]])
    factors = prepare_action(jnp.array([[1, 2], [-1, -1]]), 5, (2, 3))
    np.testing.assert_array_equal(factors, [[0, 1, 0, 0, 1], [0, 0, 0, 0, 0]])
    floats = jnp.array([[0.5, -0.5]])
    assert prepare_action(floats, 2) is floats


@pytest.mark.parametrize("size", [32, 96, 128])
def test_images_of_other_sizes(size):
    """Encoder and decoder follow the size: an embedding ends at 2x2, an image at the size."""
    config = make_tiny_config(env={"size": size}, cnn_depth=4)
    obs = {"image": ((size, size, 3), "uint8")}
    agent = make_agent(config, obs, ActionSpec(True, 3), make_backend("gpu"))
    wm, hypers = agent.wm, member_hypers(config)[0]
    params = jax.eval_shape(
        lambda key: agent_lib.init(agent, key, hypers), jax.random.key(0)
    ).params
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    embed = jax.eval_shape(lambda p, x: wm.embed(p, {"image": x}), params["model"], images)
    layers = {32: 3, 96: 4, 128: 5}[size]
    assert embed.shape == (2, 2 * 2 * 4 * 2 ** (layers - 1)) == (2, wm.rssm.embed_size)
    feat = jax.ShapeDtypeStruct((2, 4 * 5 + 16), jnp.float32)
    assert jax.eval_shape(wm.decode, params["model"], feat)["image"].shape == (2, size, size, 3)
    with pytest.raises(UsageError, match=f"images must be {size}x{size} pixels"):
        make_agent(config, {"image": ((64, 64, 3), "uint8")}, ActionSpec(True, 3), agent.backend)


def test_published_parameter_counts():
    """DreamerV2 for Atari at full size, one grey 64x64 image, 18 actions."""
    config = default_config()
    obs = {"image": ((64, 64, 1), "uint8")}
    agent = make_agent(config, obs, ActionSpec(discrete=True, size=18), make_backend("cpu"))
    init = functools.partial(agent_lib.init, agent, hypers=member_hypers(config)[0])
    params = jax.eval_shape(init, jax.random.key(0)).params
    counts = {part: count_parameters(tree) for part, tree in params["model"].items()}
    assert counts == {
        "encoder": 1_549_776,
        "rssm": 5_664_848,
        "decoder": 10_497_553,
        "reward": 1_131_601,
        "discount": 1_131_601,
    }
    assert {group: count_parameters(tree) for group, tree in params.items()} == {
        "model": 19_975_379,
        "actor": 1_138_418,
        "critic": 1_131_601,
    }


def test_policy_steps_reset_with_the_episode_and_remember_within_it():
    agent, hypers = mock_agent("vector")
    params = mock_state(agent, hypers).params
    step = jax.jit(functools.partial(agent_lib.policy_step, agent, sample=from_noise))
    obs = {"position": jnp.ones((2, 3))}
    fresh = agent_lib.init_policy(agent, jax.random.key(0), 2)
    used = fresh.replace(
        state=jax.tree.map(lambda x: x + 1, fresh.state), action=jnp.ones_like(fresh.action)
    )
    is_first = jnp.array([True, False])
    (one, first), (two, second) = (step(params, carry, obs, is_first) for carry in (fresh, used))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(one.state.deter[0], two.state.deter[0])
    assert (one.state.deter[1] != two.state.deter[1]).any()
    np.testing.assert_array_equal(one.action, first)
    assert (jax.random.key_data(one.key) != jax.random.key_data(fresh.key)).any()
