"""Parity of imagination, actor, critic, policy and training steps with the original."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import (
    FORWARD,
    GRADIENT,
    METRICS,
    WEIGHTS,
    check_grads,
    check_metrics,
    close,
    needs_goldens,
)

from dreamer_jax.agent import agent as agent_lib
from dreamer_jax.agent.guard import flatten_metrics
from dreamer_jax.agent.reference import import_reference
from dreamer_jax.behavior.actor_critic import ACTOR_GRADS, actor_loss, critic_loss, imagine_rollout
from dreamer_jax.behavior.base import PosteriorBatch
from dreamer_jax.behavior.returns import imagination_weight
from dreamer_jax.model.distributions import take_mode

pytestmark = needs_goldens


@pytest.fixture(scope="module")
def rollout_of(golden):
    """Return compiled imagination from the stored posteriors, given an actor's parameters."""
    states = golden.stored_state("out/observe/post")
    starts = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), states)
    is_terminal = golden.batch.is_terminal.reshape(-1)
    ac, wm = golden.agent.behaviors[0].ac, golden.agent.wm
    noise = ac.draw_noise(jax.random.key(0), wm.rssm.latent, 21)

    @jax.jit
    def run(actor_params, is_terminal):
        return imagine_rollout(
            ac, wm, golden.model, actor_params, golden.imported.slow_critic, starts, is_terminal,
            noise, golden.hypers, sample=take_mode,
        )  # fmt: skip

    def rollout_of(actor_params, *, terminal=True):
        return run(actor_params, is_terminal if terminal else jnp.zeros_like(is_terminal))

    return rollout_of


def test_imagination_and_target(golden, rollout_of):
    rollout = rollout_of(golden.imported.params["actor"])
    trajectory = rollout.trajectory
    for ours, name in [
        (trajectory.state.deter, "imagine/deter"), (trajectory.state.stoch, "imagine/stoch"),
        (trajectory.feat, "imagine/feat"), (trajectory.action, "imagine/action"),
        (rollout.discount, "imagine/discount"), (rollout.weight, "imagine/weight"),
        (rollout.reward, "imagine/reward"), (rollout.target, "target"),
    ]:  # fmt: skip
        close(ours, golden["out/" + name])
    prior = golden.agent.wm.rssm.apply(
        {"params": golden.model["rssm"]}, trajectory.state.deter[1:], method="prior"
    )
    close(prior["logits"], golden["out/imagine/logit"][1:])


def test_imagination_without_terminal_flags(golden, rollout_of):
    # Without flags the original predicts the first discount too.
    wm = golden.agent.wm
    rollout = rollout_of(golden.imported.params["actor"], terminal=False)
    predicted = wm.predict_discount(golden.model, rollout.trajectory.feat, 0.999)
    close(predicted, golden["out/imagine_noterm/discount"])
    close(imagination_weight(predicted), golden["out/imagine_noterm/weight"])


@pytest.mark.parametrize("estimator", sorted(ACTOR_GRADS))
def test_actor_loss(golden, rollout_of, estimator):
    ac = replace(golden.agent.behaviors[0].ac, actor_grad=ACTOR_GRADS[estimator])
    outside = rollout_of(golden.imported.params["actor"])

    def loss(params):
        inside = rollout_of(params) if ac.actor_grad.through_dynamics else outside
        return actor_loss(ac, params, inside, golden.hypers, jnp.zeros(()))

    grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
    value, grads = grad(golden.imported.params["actor"])
    close(value[0], golden[f"out/actor_loss/{estimator}/loss"])
    metrics = value[1] | {"actor_loss": value[0]}
    check_metrics(metrics, golden.prefixed(f"out/actor_loss/{estimator}/metrics/"))
    check_grads({"actor": grads}, golden.prefixed(f"grad/actor_loss/{estimator}/"))
    norm = jnp.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
    close(norm, golden[f"out/actor_loss/{estimator}/grad_norm"], GRADIENT)


def test_critic_loss(golden, rollout_of):
    rollout = rollout_of(golden.imported.params["actor"])
    grad = jax.jit(
        jax.value_and_grad(
            lambda p: critic_loss(golden.agent.behaviors[0].ac, p, rollout), has_aux=True
        )
    )
    (value, metrics), grads = grad(golden.imported.params["critic"])
    close(value, golden["out/critic_loss/loss"])
    metrics = metrics | {"critic_loss": value}
    check_metrics(metrics, golden.prefixed("out/critic_loss/metrics/"))
    check_grads({"critic": grads}, golden.prefixed("grad/critic_loss/"))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_policy(golden, mode):
    step = jax.jit(
        partial(agent_lib.policy_step, golden.agent, greedy=mode == "eval", sample=take_mode)
    )
    carry = agent_lib.init_policy(golden.agent, jax.random.key(0), 3)
    for call in range(2):
        obs = {"image": golden.batch.obs["image"][:, call]}
        is_first = golden.batch.is_first[:, call]
        carry, action = step(golden.imported.params, carry, obs, is_first)
        prefix = f"out/policy/{mode}/{call}"
        close(action, golden[prefix + "/action"])
        close(carry.state.deter, golden[prefix + "/latent/deter"])
        close(carry.state.stoch, golden[prefix + "/latent/stoch"])


def carried_step(golden, state, start):
    """Make a training step whose sequences follow `start`; the mode is taken, so keys are unused.

    Returns:
        The new state, the last posterior state [B, ...], and metrics.
    """
    agent, batch, key = golden.agent, golden.batch, jax.random.key(0)
    state, posteriors, update = agent_lib.update_model(agent, state, batch, start, key, take_mode)
    replayed = PosteriorBatch(posteriors, batch.action, batch.is_first, batch.is_terminal)
    state, updates = agent_lib.update_behaviors(agent, state, replayed, [key], take_mode)
    last = jax.tree.map(lambda x: x[:, -1], posteriors)
    metrics = flatten_metrics({"model": update, **updates})
    return state.replace(update=state.update + 1), last, metrics


@pytest.mark.usefixtures("as_shipped")
def test_three_whole_training_steps(golden):
    step = jax.jit(partial(carried_step, golden))
    state, start = golden.state, golden.start("zero")
    for i in range(3):
        state, start, metrics = step(state, start)
        theirs = golden.prefixed(f"train/{i}/metrics/")
        for name, value in theirs.items():
            ours = metrics[METRICS.get(name, name)]
            if name in ("critic", "critic_slow"):  # means of values of both signs
                scale = np.abs(golden["out/critic/mode"]).max()
                np.testing.assert_allclose(ours, value, rtol=0, atol=FORWARD * scale)
            else:
                close(ours, value, GRADIENT if "grad_norm" in name else FORWARD)
        close(start.deter, golden[f"train/{i}/state/deter"])
        close(start.stoch, golden[f"train/{i}/state/stoch"])
        weights = import_reference(golden.prefixed(f"train/{i}/var/"))

        def same(ours, theirs):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=WEIGHTS)

        jax.tree.map(same, state.params, weights.params)
        jax.tree.map(same, state.slow_critic, weights.slow_critic)
