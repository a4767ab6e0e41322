"""Shapes and dtypes of the functions that take a complete agent.

Updates take seconds to compile, so every kind of agent is only traced: `jax.eval_shape` finds every
wrong shape. A small agent runs both eagerly and compiled.
"""

import functools
from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mock_agents import OBS, assert_shapes, mock_agent, mock_batch, mock_state

from dreamer_jax.agent import agent as agent_lib
from dreamer_jax.agent.report import Film, report
from dreamer_jax.behavior.actor_critic import actor_loss, critic_loss, imagine_rollout
from dreamer_jax.behavior.imagination import ImagineNoise
from dreamer_jax.model.distributions import from_noise
from dreamer_jax.model.world_model import log_probs, prepare_obs, world_model_loss
from dreamer_jax.types import RSSMState, Trajectory

B, T = 2, 4  # of mock_batch
N, H = B * T, 4  # imagination starts, horizon of the tiny config
D, LATENT = 16, {"categorical": (4, 5), "gaussian": (4,)}

# Every pair of (observation, action, latent) kinds, with varied estimators, norms and dtypes.
KINDS = [
    ("image", "discrete", "categorical", "reinforce", {"norm": True}),
    ("image", "continuous", "gaussian", "reinforce", {}),
    ("vector", "discrete", "gaussian", "dynamics", {"norm": True}),
    ("vector", "continuous", "categorical", "dynamics", {"discount_head": {"enabled": False}}),
    (
        "vector", "continuous", "gaussian", "dynamics",
        {"actor": {"dist": "tanh_normal"}, "kl_loss": "plain", "slow_critic_every": 1},
    ),
    ("mixed", "discrete", "categorical", "both", {"compute_dtype": "bfloat16"}),
    ("mixed", "continuous", "gaussian", "both", {"compute_dtype": "bfloat16"}),
]  # fmt: skip


class Kind:
    """An agent of one kind, whose state and arguments are shapes."""

    def __init__(self, obs, action, latent, estimator, changes):
        rssm = {"latent": latent, "stoch": 4, "classes": 5, "deter": D, "hidden": D}
        self.agent, self.hypers = mock_agent(
            obs, action, actor_grad=estimator, rssm=rssm, **changes
        )
        self.batch = mock_batch(obs, action)
        self.obs, self.size = OBS[obs], self.agent.behaviors[0].ac.action_size
        self.latent = LATENT[latent]
        init = functools.partial(agent_lib.init, self.agent)
        self.state = jax.eval_shape(init, jax.random.key(0), self.hypers)

    def state_shape(self, *lead):
        return RSSMState(deter=(*lead, D), stoch=(*lead, *self.latent))

    @property
    def features(self):
        return int(np.prod(self.latent)) + D

    def trace(self, fn, *args):
        return jax.eval_shape(functools.partial(fn, self.agent), *args)


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: "-".join(kind[:4]))
def kind(request):
    return Kind(*request.param)


def test_initial_parameters_are_float32(kind):
    chex.assert_type(jax.tree.leaves(kind.state.params), jnp.float32)


def test_world_model(kind):
    wm, params = kind.agent.wm, kind.state.params["model"]

    def parts(params, batch, state):
        feat, obs = wm.feature(state), prepare_obs(batch.obs)
        heads = wm.predict_reward(params, feat), wm.predict_discount(params, feat, 0.9)
        predicted = log_probs(wm, params, feat, obs, batch.reward, batch.is_terminal, 0.9)
        return feat, heads, wm.decode(params, feat), wm.embed(params, obs), predicted

    state = jax.eval_shape(lambda: wm.rssm.initial((B, T)))
    feat, heads, means, embed, predicted = jax.eval_shape(parts, params, kind.batch, state)
    chex.assert_shape(embed, (B, T, wm.rssm.embed_size))
    assert_shapes(feat, (B, T, kind.features))
    assert_shapes(heads, ((B, T), (B, T)))
    assert_shapes(means, {k: (B, T, *shape) for k, (shape, _) in kind.obs.items()})
    names = ["reward"] if wm.discount is None else ["reward", "discount"]
    assert_shapes(predicted, {k: (B, T) for k in [*kind.obs, *names]})


def test_imagination_and_behavior_losses(kind):
    ac, wm = kind.agent.behaviors[0].ac, kind.agent.wm

    def run(state, starts):
        noise = ac.draw_noise(jax.random.key(0), wm.rssm.latent, N)
        rollout = imagine_rollout(
            ac, wm, state.params["model"], state.params["actor"], state.slow_critic, starts,
            jnp.zeros(N, bool), noise, kind.hypers, sample=from_noise,
        )  # fmt: skip
        losses = (
            actor_loss(ac, state.params["actor"], rollout, kind.hypers, state.update),
            critic_loss(ac, state.params["critic"], rollout),
        )
        return noise, rollout, losses

    starts = jax.eval_shape(lambda: wm.rssm.initial((N,)))
    noise, rollout, losses = jax.eval_shape(run, kind.state, starts)
    discrete = kind.batch.action.ndim == 2
    action_noise = (H, N) if discrete else (H, N, kind.size)
    assert_shapes(noise, ImagineNoise(action_noise, (H, N, 4)))
    trajectory = Trajectory(
        state=kind.state_shape(H + 1, N),
        feat=(H + 1, N, kind.features),
        action=(H + 1, N, kind.size),
    )
    assert_shapes(rollout.trajectory, trajectory)
    for values in (rollout.reward, rollout.discount, rollout.weight, rollout.slow_value):
        assert_shapes(values, (H + 1, N))
    assert_shapes(rollout.target, (H, N))
    for loss, metrics in losses:
        assert_shapes(loss, ())
        assert_shapes(metrics, {name: () for name in metrics})


def test_policy_step(kind):
    carry = jax.eval_shape(lambda: agent_lib.init_policy(kind.agent, jax.random.key(0), 3))
    assert_shapes((carry.state, carry.action), (kind.state_shape(3), (3, kind.size)))
    obs = {k: jnp.zeros((3, *shape), dtype) for k, (shape, dtype) in kind.obs.items()}
    for greedy in (False, True):
        step = functools.partial(agent_lib.policy_step, greedy=greedy)
        after, action = kind.trace(step, kind.state.params, carry, obs, jnp.zeros(3, bool))
        chex.assert_trees_all_equal_shapes_and_dtypes(after, carry)
        assert_shapes(action, (3, kind.size))


def test_train_step_returns_a_state_like_the_one_it_got(kind):
    state, updates = kind.trace(agent_lib.train_step, kind.state, kind.batch)
    chex.assert_trees_all_equal_shapes_and_dtypes(state, kind.state)
    assert set(updates) == set(state.params)
    for leaf in jax.tree.leaves(updates):
        assert_shapes(leaf, ())


def test_report(kind):
    def run(agent, *args):
        return report(replace(agent, context=2), *args)

    result = kind.trace(run, kind.state, kind.batch, jax.random.key(0))
    images = {k: (B, T, *shape) for k, (shape, dtype) in kind.obs.items() if dtype == "uint8"}
    assert_shapes(result.films, {k: Film(shape, shape, shape) for k, shape in images.items()})
    assert_shapes(result.error, dict.fromkeys([*kind.obs, "reward"], (T,)))
    for leaf in result.metrics.values():
        assert_shapes(leaf, ())


class Small:
    """An agent that is executed, with arguments for its functions."""

    def __init__(self):
        layers = {"layers": 1, "units": 16}
        heads = dict.fromkeys(("vector", "reward_head", "discount_head", "actor", "critic"), layers)
        self.agent, self.hypers = mock_agent(
            "vector", "continuous", actor_grad="both", horizon=2, **heads
        )
        self.batch = mock_batch("vector", "continuous")
        self.state = mock_state(self.agent, self.hypers)

    def policy_step(self, state, key):
        carry = agent_lib.init_policy(self.agent, key, B)
        obs = {k: x[:, 0] for k, x in self.batch.obs.items()}
        is_first = self.batch.is_first[:, 0]
        return agent_lib.policy_step(self.agent, state.params, carry, obs, is_first)

    def world_model_loss(self, state, key):
        wm = self.agent.wm
        noise, start = wm.rssm.latent.noise(key, (T, B)), wm.rssm.initial((B,))
        return world_model_loss(wm, state.params["model"], self.batch, noise, start, self.hypers)

    def behavior_losses(self, state, key):
        wm, ac, params = self.agent.wm, self.agent.behaviors[0].ac, state.params
        noise = ac.draw_noise(key, wm.rssm.latent, B)
        rollout = imagine_rollout(
            ac, wm, params["model"], params["actor"], state.slow_critic, wm.rssm.initial((B,)),
            jnp.zeros(B, bool), noise, self.hypers, sample=from_noise,
        )  # fmt: skip
        return (
            actor_loss(ac, params["actor"], rollout, self.hypers, state.update),
            critic_loss(ac, params["critic"], rollout),
        )

    def report(self, state, key):
        return report(replace(self.agent, context=2), state, self.batch, key)

    def init(self, state, key):
        return agent_lib.init(self.agent, key, self.hypers)

    def train_step(self, state, key):
        return agent_lib.train_step(self.agent, state.replace(key=key), self.batch)


@pytest.fixture(scope="module")
def small():
    return Small()


# Uncompiled, an update or an initialisation is thousands of small programs.
@pytest.mark.parametrize(
    "name",
    [
        "policy_step",
        "world_model_loss",
        "behavior_losses",
        "report",
        pytest.param("init", marks=pytest.mark.slow),
        pytest.param("train_step", marks=pytest.mark.slow),
    ],
)
def test_compiled_and_eager_calls_agree(small, name):
    fn, key = getattr(small, name), jax.random.key(1)
    eager, compiled = fn(small.state, key), jax.jit(fn)(small.state, key)
    chex.assert_trees_all_equal_shapes_and_dtypes(eager, compiled)
    for one, two in zip(jax.tree.leaves(eager), jax.tree.leaves(compiled), strict=True):
        if jnp.issubdtype(one.dtype, jax.dtypes.prng_key):
            one, two = jax.random.key_data(one), jax.random.key_data(two)
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-4)
