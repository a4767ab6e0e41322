"""The parts of an update, timed apart: each with its gradients, compiled for all members."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dreamer_jax.agent.agent import Agent
from dreamer_jax.agent.members import over_members
from dreamer_jax.behavior.actor_critic import Rollout, actor_loss, critic_loss, imagine_rollout
from dreamer_jax.benchmark.batches import make_batch
from dreamer_jax.benchmark.flops import Flops, update_flops
from dreamer_jax.benchmark.timing import milliseconds, time_calls
from dreamer_jax.model import rssm as rssm_lib
from dreamer_jax.model.distributions import from_noise
from dreamer_jax.model.objectives import reconstruction
from dreamer_jax.model.world_model import prepare_action, prepare_obs
from dreamer_jax.optimizer import apply_gradients
from dreamer_jax.run.setup import RunSetup
from dreamer_jax.types import Array, Batch, RSSMState, TrainState


class Inputs(NamedTuple):
    """What the parts of one member's update take."""

    state: TrainState
    batch: Batch
    embed: Array  # [B, L, X]
    states: RSSMState  # [B, L, ...]
    rollout: Rollout
    key: Array


PartFn = Callable[[Inputs], Any]  # what a part computes, and what of it cannot be left out


def part_functions(agent: Agent) -> dict[str, PartFn]:
    """Each part of one member's update as a function of `Inputs`, by its name in `update_flops`.

    Where the update takes gradients, a part returns those that it has there, of half its squared
    outputs or of its own loss. `optimizer` clips and steps the three groups.
    """
    return {
        "encoder": lambda x: _encoder(agent, x),
        "observe": lambda x: _observe(agent, x),
        "decoder": lambda x: _decoder(agent, x),
        "heads": lambda x: _heads(agent, x),
        "imagination": lambda x: _imagination(agent, x),
        "actor": lambda x: _actor(agent, x),
        "critic": lambda x: _critic(agent, x),
        "optimizer": lambda x: _optimizer(agent, x),
    }


def measure_parts(parts: RunSetup, *, repeats: int, synthetic: bool) -> list[dict[str, Any]]:
    """Time every part on the sizes of the update, all members together.

    Returns:
        Per part its name, `ms_per_update` with `ms_min` and `ms_max`, and the counted
        `flops_per_update` and `flops_per_s` of all members; None for the optimizer.
    """
    config, members = parts.config, len(parts.seeds)
    counted = update_flops(parts.agent, batch=config.batch, length=config.length)
    backend = parts.agent.backend
    over = partial(over_members, together=backend.map_members_together)
    inputs = jax.jit(over(lambda s, b: make_inputs(parts.agent, s, b)))(
        parts.init_state(), make_batch(parts, synthetic=synthetic)
    )
    rows = []
    for name, fn in part_functions(parts.agent).items():
        program = jax.jit(over(fn), compiler_options=dict(backend.compiler_options))
        compiled = program.lower(inputs).compile()
        seconds = time_calls(lambda compiled=compiled: compiled(inputs), repeats=repeats)
        row = {"part": name, **milliseconds(seconds)}
        flops: Flops | None = counted.get(name)
        total = flops and members * flops.total
        rate = total and 1e3 * total / row["ms_per_update"]
        rows.append(row | {"flops_per_update": total, "flops_per_s": rate})
    return rows


def make_inputs(agent: Agent, state: TrainState, batch: Batch) -> Inputs:
    """Outputs of each part for the next one, one member."""
    wm, key = agent.wm, state.key
    embed = wm.embed(state.params["model"], prepare_obs(batch.obs))
    states, _, _ = _filter(agent, state.params["model"]["rssm"], embed, batch, key)
    empty = Inputs(state, batch, embed, states, None, key)
    return empty._replace(rollout=_roll_out(agent, empty, state.params["actor"]))


def _half_square(tree: Any) -> Array:
    """A loss whose gradient is no constant, which XLA could simplify."""
    return 0.5 * sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(tree))


def _filter(agent: Agent, rssm_params, embed: Array, batch: Batch, key: Array):
    wm = agent.wm
    b, length = batch.reward.shape
    return rssm_lib.observe(
        wm.rssm,
        rssm_params,
        embed,
        prepare_action(batch.action, wm.rssm.action_size),
        batch.is_first,
        wm.rssm.latent.noise(key, (length, b)),
        wm.rssm.initial((b,)),
        sample=from_noise,
    )


def _roll_out(agent: Agent, x: Inputs, actor_params) -> Rollout:
    starts = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), x.states)
    is_terminal = x.batch.is_terminal.reshape(-1)
    return imagine_rollout(
        agent.behaviors[0].ac,
        agent.wm,
        x.state.params["model"],
        actor_params,
        x.state.slow_critic,
        starts,
        is_terminal,
        agent.behaviors[0].ac.draw_noise(x.key, agent.wm.rssm.latent, is_terminal.shape[0]),
        x.state.hypers,
        sample=from_noise,
    )


def _encoder(agent: Agent, x: Inputs):
    obs, params = prepare_obs(x.batch.obs), x.state.params["model"]["encoder"]
    return jax.grad(lambda p: _half_square(agent.wm.embed({"encoder": p}, obs)))(params)


def _observe(agent: Agent, x: Inputs):
    def loss(params, embed):
        return _half_square(_filter(agent, params, embed, x.batch, x.key))

    return jax.grad(loss, (0, 1))(x.state.params["model"]["rssm"], x.embed)


def _decoder(agent: Agent, x: Inputs):
    obs, feat = prepare_obs(x.batch.obs), agent.wm.feature(x.states)

    def loss(params, feat):
        log_probs = reconstruction(agent.wm.decode({"decoder": params}, feat), obs)
        return -sum(log_prob.mean() for log_prob in log_probs.values())

    return jax.grad(loss, (0, 1))(x.state.params["model"]["decoder"], feat)


def _heads(agent: Agent, x: Inputs):
    wm, feat = agent.wm, agent.wm.feature(x.states)

    def loss(params, feat):
        heads = [wm.predict_reward(params, feat)]
        if wm.discount is not None:
            heads.append(wm.discount_logits(params, feat))
        return _half_square(heads)

    names = [name for name in ("reward", "discount") if name in x.state.params["model"]]
    params = {name: x.state.params["model"][name] for name in names}
    return jax.grad(loss, (0, 1))(params, feat)


def _imagination(agent: Agent, x: Inputs):
    if not agent.behaviors[0].ac.actor_grad.through_dynamics:
        return _roll_out(agent, x, x.state.params["actor"])

    def loss(actor_params):
        rollout = _roll_out(agent, x, actor_params)
        return _half_square(rollout.target), rollout

    return jax.grad(loss, has_aux=True)(x.state.params["actor"])


def _actor(agent: Agent, x: Inputs):
    def loss(params):
        return actor_loss(agent.behaviors[0].ac, params, x.rollout, x.state.hypers, x.state.update)

    return jax.grad(loss, has_aux=True)(x.state.params["actor"])


def _critic(agent: Agent, x: Inputs):
    loss = jax.grad(
        lambda params: critic_loss(agent.behaviors[0].ac, params, x.rollout), has_aux=True
    )
    return loss(x.state.params["critic"])


def _optimizer(agent: Agent, x: Inputs):
    opt, lr = x.state.opt_states, x.state.hypers.model_lr
    return {
        # The weights stand for their gradients.
        name: apply_gradients(agent.optimizers[name], params, opt[name], params, lr)
        for name, params in x.state.params.items()
    }
