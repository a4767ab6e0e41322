"""Imagination, actor and critic losses: alignment against loops, and where gradients stop."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mock_agents import mock_agent, mock_state, random_like

from dreamer_jax.behavior.actor_critic import ACTOR_GRADS, actor_loss, critic_loss, imagine_rollout
from dreamer_jax.behavior.base import PosteriorBatch
from dreamer_jax.behavior.dreamer import update_actor_critic
from dreamer_jax.behavior.imagination import imagine, imagined_discount
from dreamer_jax.behavior.returns import imagination_weight, lambda_return
from dreamer_jax.model.distributions import OneHot, from_noise
from dreamer_jax.model.rssm import img_step

N, H = 5, 4  # imagination starts, horizon of the tiny config


class Case:
    """An agent with random weights, N start states, and the noise of one imagination."""

    def __init__(self, action, actor_grad, **changes):
        self.agent, hypers = mock_agent("vector", action, actor_grad=actor_grad, **changes)
        self.hypers = hypers.replace(actor_grad_mix=0.3, actor_grad_mix_final=0.3)
        self.state = mock_state(self.agent, self.hypers)
        self.params = self.state.params
        # Critic and slow critic differ, as they do in the middle of a training.
        self.slow_critic = jax.tree.map(lambda x: 0.8 * x + 0.1, self.state.slow_critic)
        wm, ac = self.agent.wm, self.agent.behaviors[0].ac
        rng = np.random.default_rng(3)
        zero = wm.rssm.initial((N,))
        classes = rng.integers(0, 5, zero.stoch.shape[:-1])
        self.start = zero.replace(
            deter=random_like(zero.deter), stoch=jnp.asarray(np.eye(5, dtype=np.float32)[classes])
        )
        self.is_terminal = jnp.array([False, True, False, False, False])
        self.noise = ac.draw_noise(jax.random.key(4), wm.rssm.latent, N)

    def imagine(self, model=None, actor=None, slow_critic=None):
        return imagine_rollout(
            self.agent.behaviors[0].ac,
            self.agent.wm,
            self.params["model"] if model is None else model,
            self.params["actor"] if actor is None else actor,
            self.slow_critic if slow_critic is None else slow_critic,
            self.start,
            self.is_terminal,
            self.noise,
            self.hypers,
            sample=from_noise,
        )

    def actor_loss(self, rollout, actor=None, hypers=None):
        actor = self.params["actor"] if actor is None else actor
        return actor_loss(
            self.agent.behaviors[0].ac, actor, rollout, hypers or self.hypers, jnp.zeros(())
        )[0]


@functools.cache
def make_case(action="discrete", actor_grad="reinforce", **changes):
    return Case(action, actor_grad, **changes)


@functools.cache
def rollout_of(action="discrete"):
    case = make_case(action)
    return jax.jit(case.imagine)()


def close(ours, expected):
    np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)


def is_zero(tree):
    return not any(leaf.any() for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("action", ["discrete", "continuous"])
def test_imagination_equals_a_loop(action):
    case, trajectory = make_case(action), rollout_of(action).trajectory
    wm, ac = case.agent.wm, case.agent.behaviors[0].ac
    model = case.params["model"]["rssm"]

    @jax.jit
    def step(state, noise):
        taken = from_noise(ac.act(case.params["actor"], wm.feature(state)), noise.action)
        after, _ = img_step(wm.rssm, model, state, taken, noise.latent, sample=from_noise)
        return wm.feature(state), taken, after

    state = case.start
    assert not trajectory.action[0].any()
    for t in range(H):
        feat, taken, after = step(state, jax.tree.map(lambda x, t=t: x[t], case.noise))
        close(trajectory.state.deter[t], state.deter)
        close(trajectory.state.stoch[t], state.stoch)
        close(trajectory.feat[t], feat)
        close(trajectory.action[t + 1], taken)
        state = after
    close(trajectory.state.deter[H], state.deter)
    close(trajectory.state.stoch[H], state.stoch)


def test_rollout_is_evaluated_where_it_was_reached():
    case, rollout = make_case(), rollout_of()
    wm, model = case.agent.wm, case.params["model"]
    feat = rollout.trajectory.feat
    close(rollout.reward, jax.jit(wm.predict_reward)(model, feat))
    close(rollout.slow_value, jax.jit(case.agent.behaviors[0].ac.value)(case.slow_critic, feat))
    # The first discount is known, not predicted: gamma, or zero at an end.
    close(rollout.discount[0], [0.999, 0.0, 0.999, 0.999, 0.999])
    close(rollout.discount[1:], jax.jit(wm.predict_discount)(model, feat, 0.999)[1:])
    close(rollout.weight, imagination_weight(rollout.discount))
    value = rollout.slow_value
    target = lambda_return(rollout.reward[:-1], value[:-1], rollout.discount[:-1], value[-1], 0.95)
    close(rollout.target, target)


def test_without_a_discount_head_gamma_is_everywhere():
    agent, _ = mock_agent(discount_head={"enabled": False})
    assert agent.wm.discount is None
    feat = jnp.ones((H + 1, N, 3))
    ends = jnp.ones(N, bool)  # without a head even a start at an episode's end counts on
    discount, weight = imagined_discount(agent.wm, {}, feat, ends, jnp.float32(0.9))
    np.testing.assert_array_equal(discount, np.full((H + 1, N), np.float32(0.9)))
    close(weight, 0.9 ** np.arange(H + 1)[:, None] * np.ones((1, N)))


@pytest.mark.parametrize("estimator", sorted(ACTOR_GRADS))
def test_actor_loss_equals_a_loop(estimator):
    case, rollout = make_case("discrete", estimator), rollout_of()
    hypers = case.hypers.replace(actor_entropy=0.7, actor_entropy_final=0.7)

    @jax.jit
    def policy_terms(feat, action):
        policy = case.agent.behaviors[0].ac.act(case.params["actor"], feat)
        return policy.log_prob(action), policy.entropy()

    total = []
    for t in range(H - 1):
        path = rollout.trajectory
        log_prob, entropy = map(np.asarray, policy_terms(path.feat[t], path.action[t + 1]))
        target = np.asarray(rollout.target[t + 1])
        reinforced = log_prob * (target - np.asarray(rollout.slow_value[t]))
        objective = {
            "reinforce": reinforced,
            "dynamics": target,
            "both": 0.3 * target + 0.7 * reinforced,
        }[estimator]
        total.append(np.asarray(rollout.weight[t]) * (objective + 0.7 * entropy))
    loss = jax.jit(lambda r: case.actor_loss(r, hypers=hypers))(rollout)
    close(loss, -np.mean(total))


def test_critic_loss_equals_a_loop():
    case, rollout = make_case(), rollout_of()
    value = jax.jit(case.agent.behaviors[0].ac.value)(
        case.params["critic"], rollout.trajectory.feat
    )
    total = []
    for t in range(H):
        error = 0.5 * np.square(value[t] - rollout.target[t]) + 0.9189385
        total.append(np.asarray(rollout.weight[t]) * error)
    loss = jax.jit(lambda params: critic_loss(case.agent.behaviors[0].ac, params, rollout)[0])
    close(loss(case.params["critic"]), np.mean(total))


def test_entropy_is_annealed():
    case, rollout = make_case(), rollout_of()
    hypers = case.hypers.replace(
        actor_entropy=1.0, actor_entropy_final=0.0, anneal_updates=10.0,
        actor_grad_mix=0.0, actor_grad_mix_final=1.0,
    )  # fmt: skip
    loss = jax.jit(functools.partial(actor_loss, case.agent.behaviors[0].ac))
    for update, scale in ((0, 1.0), (5, 0.5), (20, 0.0)):
        _, metrics = loss(case.params["actor"], rollout, hypers, jnp.int32(update))
        close(metrics["actor_entropy_scale"], scale)
        close(metrics["actor_grad_mix"], 1 - scale)


def test_reinforce_gives_the_world_model_and_the_slow_critic_no_gradient():
    case = make_case()

    def loss(model, slow_critic):
        return case.actor_loss(case.imagine(model=model, slow_critic=slow_critic))

    grads = jax.jit(jax.grad(loss, (0, 1)))(case.params["model"], case.slow_critic)
    assert is_zero(grads)


def test_critic_loss_trains_the_critic_alone():
    case, rollout = make_case(), rollout_of()
    loss = jax.grad(lambda p, r: critic_loss(case.agent.behaviors[0].ac, p, r)[0], (0, 1))
    grads = jax.jit(loss)(case.params["critic"], rollout)
    assert not is_zero(grads[0])
    # The weight is cut where it is made, in `imagination_weight`.
    assert is_zero(grads[1]._replace(weight=jnp.zeros(())))


@pytest.mark.parametrize(
    ("estimator", "action"),
    [("dynamics", "discrete"), ("both", "discrete"), ("both", "continuous")],
)
def test_the_actor_gradient_passes_through_the_dynamics(estimator, action):
    """Without entropy bonus all of the gradient of `dynamics` comes through the rollout."""
    case = make_case(action, estimator)
    assert case.agent.behaviors[0].ac.actor_grad.through_dynamics
    hypers = case.hypers.replace(actor_entropy=0.0, actor_entropy_final=0.0)

    def loss(inside, outside):
        return case.actor_loss(case.imagine(actor=inside), outside, hypers)

    actor = case.params["actor"]
    inside, outside = jax.jit(jax.grad(loss, (0, 1)))(actor, actor)
    assert not is_zero(inside)
    assert is_zero(outside) == (estimator == "dynamics")
    assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(inside))


def test_an_actor_without_value_does_not_read_the_critic():
    case = make_case("continuous", "dynamics", returns="reward_sum")

    def loss(actor, slow_critic):
        return case.actor_loss(case.imagine(actor=actor, slow_critic=slow_critic), actor)

    grads = jax.jit(jax.grad(loss, (0, 1)))(case.params["actor"], case.slow_critic)
    assert not is_zero(grads[0])
    assert is_zero(grads[1])


def test_reinforce_uses_only_the_log_probability():
    case, rollout = make_case(), rollout_of()
    assert not case.agent.behaviors[0].ac.actor_grad.through_dynamics
    hypers = case.hypers.replace(actor_entropy=0.0, actor_entropy_final=0.0)
    loss = jax.grad(lambda p: case.actor_loss(rollout, p, hypers))
    grads = jax.jit(loss)(case.params["actor"])

    def by_hand(actor):
        feat, action = rollout.trajectory.feat, rollout.trajectory.action
        log_prob = case.agent.behaviors[0].ac.act(actor, feat[:-2]).log_prob(action[1:-1])
        advantage = rollout.target[1:] - rollout.slow_value[:-2]
        return -(rollout.weight[:-2] * advantage * log_prob).mean()

    jax.tree.map(close, grads, jax.jit(jax.grad(by_hand))(case.params["actor"]))


def test_the_policy_reads_a_feature_without_gradient():
    """The start state moves the next state, but not the action that led there."""
    case = make_case()
    wm = case.agent.wm

    def step(deter):
        trajectory = imagine(
            wm, case.params["model"], lambda feat: OneHot(feat[:, -3:]),
            case.start.replace(deter=deter), case.noise, sample=from_noise,
        )  # fmt: skip
        weights = jnp.arange(3.0)[None]
        action, state = trajectory.action[1], trajectory.state.deter[1]
        return (action * weights).sum(), state.sum()

    jacobian = jax.jit(jax.jacobian(step))
    through_action, through_state = jacobian(case.start.deter)
    assert is_zero(through_action)
    assert not is_zero(through_state)


@pytest.mark.parametrize("estimator", ["reinforce", "both"])
def test_behavior_updates_leave_the_world_model_and_slow_critic_alone(estimator):
    case = make_case("discrete", estimator)
    update = functools.partial(
        update_actor_critic,
        case.agent.behaviors[0].ac,
        case.agent.wm,
        case.agent.optimizers,
        sample=from_noise,
    )
    states, is_terminal = jax.tree.map(lambda x: x[None], (case.start, case.is_terminal))
    replayed = PosteriorBatch(states, None, None, is_terminal)
    args = case.state, case.state.slow_critic, replayed, jax.random.key(0)
    state, updates = jax.jit(update)(*args)
    for before, after in (
        (case.state.params["model"], state.params["model"]),
        (case.state.opt_states["model"], state.opt_states["model"]),
        (case.state.slow_critic, state.slow_critic),
    ):
        jax.tree.map(np.testing.assert_array_equal, before, after)
    assert updates["actor"].grad_norm > 0
    assert updates["critic"].grad_norm > 0
