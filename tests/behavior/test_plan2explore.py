"""Plan2Explore: what its ensemble learns, and what its actor is paid for."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import SHALLOW
from mock_agents import mock_agent, mock_batch, mock_state, random_like, train_step

from dreamer_jax.agent import agent as agent_lib
from dreamer_jax.agent.guard import flatten_metrics
from dreamer_jax.behavior.base import PosteriorBatch
from dreamer_jax.behavior.plan2explore import disagreement, ensemble_loss
from dreamer_jax.metrics import PLOTTED
from dreamer_jax.model.distributions import from_noise
from dreamer_jax.optimizer import apply_gradients
from dreamer_jax.types import Trajectory

EXPLORER = {"behavior": "plan2explore", "models": 3, "layers": 1, "units": 16}
B, T, H, N = 4, 5, 3, 6


class Case:
    """An agent with an explorer, random weights, a buffer of states, and a rollout from it."""

    def __init__(self):
        self.agent, self.hypers = mock_agent("vector", "continuous", expl=EXPLORER)
        self.state = mock_state(self.agent, self.hypers)
        self.wm, self.explorer = self.agent.wm, self.agent.behaviors[-1]
        self.ensemble = self.state.params["ensemble"]
        rng = np.random.default_rng(0)

        def states(*lead):
            zero = self.wm.rssm.initial(lead)
            classes = rng.integers(0, 5, zero.stoch.shape[:-1])
            stoch = jnp.asarray(np.eye(5, dtype=np.float32)[classes])
            return zero.replace(deter=random_like(zero.deter), stoch=stoch)

        def actions(*lead):
            return jnp.asarray(rng.uniform(-1, 1, (*lead, 2)), jnp.float32)

        is_first = jnp.zeros((B, T), bool).at[:, 0].set(True).at[1, 3].set(True)
        ends = jnp.zeros((B, T), bool)
        self.replayed = PosteriorBatch(states(B, T), actions(B, T), is_first, ends)
        imagined = states(H + 1, N)
        self.trajectory = Trajectory(imagined, self.wm.feature(imagined), actions(H + 1, N))
        self.loss = jax.jit(functools.partial(ensemble_loss, self.explorer, self.wm))
        self.disagreement = jax.jit(functools.partial(disagreement, self.explorer))


@pytest.fixture(scope="module")
def case():
    return Case()


def predictions(case, k, feat, action):
    params = jax.tree.map(lambda x: x[k], case.ensemble)
    inputs = jnp.concatenate([feat, action], -1)
    return np.asarray(case.explorer.ensemble.apply({"params": params}, inputs))


def test_the_ensembles_loss_equals_a_loop(case):
    states, action = case.replayed.states, case.replayed.action
    feat, total, count = case.wm.feature(states), 0.0, 0
    for b in range(B):
        for t in range(T - 1):
            if case.replayed.is_first[b, t + 1]:
                continue
            count += 1
            for k in range(3):
                error = states.stoch[b, t + 1].ravel() - predictions(
                    case, k, feat[b, t], action[b, t + 1]
                )
                total += 0.5 * np.square(error).sum() + 0.9189385 * error.size
    assert count == B * (T - 1) - 1
    np.testing.assert_allclose(case.loss(case.ensemble, case.replayed), total / count, rtol=1e-4)


def test_disagreement_is_the_variance_at_the_state_that_is_reached(case):
    ours, path = case.disagreement(case.ensemble, case.trajectory), case.trajectory
    assert ours.shape == (H + 1, N)
    for t in range(H):
        means = [predictions(case, k, path.feat[t], path.action[t + 1]) for k in range(3)]
        expected = np.var(means, axis=0, ddof=1).mean(-1)
        np.testing.assert_allclose(ours[t + 1], expected, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(ours[0], ours[1])


def test_models_that_are_identical_do_not_disagree(case):
    same = jax.tree.map(lambda x: jnp.broadcast_to(x[:1], x.shape), case.ensemble)
    np.testing.assert_allclose(case.disagreement(same, case.trajectory), 0, atol=1e-12)
    assert case.disagreement(case.ensemble, case.trajectory).min() > 1e-4


def test_disagreement_falls_where_the_ensemble_is_trained(case):
    """On the steps of a fixed buffer, which it learns by heart, and less elsewhere."""
    states = case.replayed.states
    whole = np.array([0, 2, 3])  # episodes; in sequence 1 another one begins
    seen = jax.tree.map(
        lambda x: jnp.swapaxes(x[whole], 0, 1),
        Trajectory(states, case.wm.feature(states), case.replayed.action),
    )
    optimizer, ensemble = case.agent.optimizers["ensemble"], case.ensemble
    opt_state = optimizer.init(ensemble)

    @jax.jit
    def step(ensemble, opt_state):
        grads = jax.grad(lambda p: ensemble_loss(case.explorer, case.wm, p, case.replayed))(
            ensemble
        )
        return apply_gradients(optimizer, grads, opt_state, ensemble, 1e-2)[:2]

    found = [case.disagreement(ensemble, seen).mean()]
    for _ in range(3):
        for _ in range(100):
            ensemble, opt_state = step(ensemble, opt_state)
        found.append(case.disagreement(ensemble, seen).mean())
    assert found[0] > found[1] > found[2] > found[3]
    assert found[3] < 0.1 * found[0]
    assert case.disagreement(ensemble, case.trajectory).mean() > 3 * found[3]


def learn(case, intrinsic, extrinsic):
    explorer = replace(case.explorer, intrinsic=intrinsic, extrinsic=extrinsic)
    args = case.wm, case.agent.optimizers, case.state, case.replayed, jax.random.key(0)
    state, updates = explorer.learn(*args, sample=from_noise)
    assert set(updates) == set(explorer.groups)
    return state, flatten_metrics(updates)


@pytest.fixture(scope="module")
def learned(case):
    """(weight of disagreement, weight of the task's reward) -> the state and metrics after."""
    run = jax.jit(functools.partial(learn, case))
    return {weights: run(*weights) for weights in ((1.0, 0.0), (0.0, 1.0), (2.0, 0.5))}


def test_the_explorers_reward_is_the_weighted_sum(learned):
    # The same states are imagined each time: the actor is rolled out before its update.
    novelty, task, both = (metrics["expl_imagined_reward"] for _, metrics in learned.values())
    np.testing.assert_allclose(both, 2 * novelty + 0.5 * task, rtol=1e-3)
    assert novelty > 0


def test_only_the_explorers_groups_learn(case, learned):
    state, metrics = learned[1.0, 0.0]
    for group, before in case.state.params.items():
        pairs = zip(jax.tree.leaves(before), jax.tree.leaves(state.params[group]), strict=True)
        changed = [bool((a != b).any()) for a, b in pairs]
        assert all(changed) if group in case.explorer.groups else not any(changed), group
    names = {f"{g}_{value}" for g in case.explorer.groups for value in ("loss", "grad_norm")}
    assert names <= set(metrics)
    assert all(name.startswith(("expl_", "ensemble_")) for name in metrics)
    assert {"ensemble_loss", "expl_imagined_reward"} <= set(metrics) & set(PLOTTED)


def test_the_explorer_acts_in_training_and_the_task_beside_it(case):
    """And both learn in one update."""
    agent, obs, first = case.agent, {"position": jnp.ones((2, 3))}, jnp.ones(2, bool)
    carry, shift = agent_lib.init_policy(agent, jax.random.key(0), 2), {}
    steps = {"policy": agent_lib.policy_step, "explore": agent_lib.explore_step}
    for name, step in steps.items():
        fn = jax.jit(functools.partial(step, agent))
        extra = (jnp.int32(0),) if name == "explore" else ()
        base = fn(case.state.params, carry, obs, first, *extra)[1]
        for group in ("actor", "expl_actor"):
            other = jax.tree.map(lambda x: x + 0.5, case.state.params[group])
            params = {**case.state.params, group: other}
            shift[name, group] = bool((fn(params, carry, obs, first, *extra)[1] != base).any())
    assert shift == {
        ("policy", "actor"): True, ("policy", "expl_actor"): False,
        ("explore", "actor"): False, ("explore", "expl_actor"): True,
    }  # fmt: skip
    init = functools.partial(agent_lib.init, agent)
    shapes = jax.eval_shape(init, jax.random.key(0), case.hypers)
    step = functools.partial(train_step, agent)
    new, metrics = jax.eval_shape(step, shapes, mock_batch("vector", "continuous"))
    assert jax.tree.structure(new) == jax.tree.structure(shapes)
    assert {"actor_loss", "expl_actor_loss", "ensemble_loss"} <= set(metrics)


def test_an_explorer_changes_no_initial_weight_of_the_others():
    plain, hypers = mock_agent("vector", "continuous", **SHALLOW)
    exploring, _ = mock_agent("vector", "continuous", expl=EXPLORER, **SHALLOW)

    @jax.jit
    def init(key):
        return [agent_lib.init(agent, key, hypers) for agent in (plain, exploring)]

    alone, beside = init(jax.random.key(0))
    for group in ("model", "actor", "critic"):
        jax.tree.map(np.testing.assert_array_equal, alone.params[group], beside.params[group])
    assert (jax.random.key_data(alone.key) == jax.random.key_data(beside.key)).all()
