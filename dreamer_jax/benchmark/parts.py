"""The parts of an update, each compiled and timed separately, for all members."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dreamer_jax.agent.agent import Agent, read_obs, update_behaviors, update_model
from dreamer_jax.agent.members import over_members
from dreamer_jax.behavior.base import PosteriorBatch
from dreamer_jax.benchmark.device import milliseconds, time_calls
from dreamer_jax.benchmark.flops import count_flops
from dreamer_jax.benchmark.update import counted_agent, make_batch, member_shapes
from dreamer_jax.model.distributions import from_noise
from dreamer_jax.model.rssm import observe
from dreamer_jax.model.world_model import log_probs, prepare_action
from dreamer_jax.run.setup import RunSetup
from dreamer_jax.types import Array, Batch, RSSMState, TrainState


class Inputs(NamedTuple):
    """Inputs of the parts of one member's update."""

    state: TrainState
    batch: Batch
    embed: Array  # [B, L, X]
    posteriors: RSSMState  # [B, L, ...]


def measure_parts(setup: RunSetup, *, repeats: int, synthetic: bool) -> list[dict[str, Any]]:
    """Time every part on the sizes of the update, for all members.

    Args:
        repeats: number of timed repetitions, at least 1.
        synthetic: see `make_batch`.

    Returns:
        A row for each `part`: `ms_per_update` with `ms_min` and `ms_max`, and the counted
        `flops_per_update` and `flops_per_s` of all members.
    """
    agent, members, backend = setup.agent, len(setup.seeds), setup.agent.backend
    together = backend.map_members_together

    def compile_(fn: Callable, *args: Any) -> jax.stages.Compiled:
        fn = over_members(fn, together=together)
        return jax.jit(fn, compiler_options=dict(backend.compiler_options)).lower(*args).compile()

    given = setup.init_state(), make_batch(setup, synthetic=synthetic)
    inputs = compile_(lambda state, batch: make_inputs(agent, state, batch), *given)(*given)
    counted = counted_agent(setup)
    shapes = jax.eval_shape(lambda s, b: make_inputs(counted, s, b), *member_shapes(setup))
    rows = []
    for name, part in PARTS.items():
        flops = members * count_flops(lambda x, part=part: part(counted, x), shapes)
        program = compile_(lambda x, part=part: part(agent, x), inputs)
        times = milliseconds(time_calls(lambda run=program: run(inputs), repeats=repeats))
        rate = 1e3 * flops / times["ms_per_update"]
        rows.append({"part": name, **times, "flops_per_update": flops, "flops_per_s": rate})
    return rows


def make_inputs(agent: Agent, state: TrainState, batch: Batch) -> Inputs:
    """Return the inputs of one member's parts, computed by the parts before them."""
    embed = agent.wm.embed(state.params["model"], read_obs(state.params, batch.obs))
    posteriors, _, _ = _observe(agent, state.params["model"]["rssm"], embed, state, batch)
    return Inputs(state, batch, embed, posteriors)


def update_world_model(agent: Agent, x: Inputs) -> Any:
    """Make the world model's update: loss, gradients and optimizer."""
    start = agent.wm.rssm.initial(x.batch.reward.shape[:1])
    return update_model(agent, x.state, x.batch, start, x.state.key, from_noise)


def encode(agent: Agent, x: Inputs) -> Any:
    """Return the gradients of an embedding."""
    obs, params = read_obs(x.state.params, x.batch.obs), x.state.params["model"]["encoder"]
    return jax.grad(lambda p: _half_square(agent.wm.embed({"encoder": p}, obs)))(params)


def filter_states(agent: Agent, x: Inputs) -> Any:
    """Return the gradients of `observe`."""

    def loss(params, embed):
        return _half_square(_observe(agent, params, embed, x.state, x.batch))

    return jax.grad(loss, (0, 1))(x.state.params["model"]["rssm"], x.embed)


def predict(agent: Agent, x: Inputs) -> Any:
    """Return the gradients of all predictions from features."""
    wm, batch, gamma = agent.wm, x.batch, x.state.hypers.discount

    def loss(params, feat):
        obs = read_obs(x.state.params, batch.obs)
        likes = log_probs(wm, params, feat, obs, batch.reward, batch.is_terminal, gamma)
        return -sum(like.mean() for like in likes.values())

    return jax.grad(loss, (0, 1))(x.state.params["model"], wm.feature(x.posteriors))


def update_all_behaviors(agent: Agent, x: Inputs) -> Any:
    """Make the behaviours' updates: imagination, losses, gradients and optimizer."""
    action = prepare_action(x.batch.action, agent.wm.rssm.action_size, agent.wm.factors)
    replayed = PosteriorBatch(x.posteriors, action, x.batch.is_first, x.batch.is_terminal)
    keys = jax.random.split(x.state.key, len(agent.behaviors))
    return update_behaviors(agent, x.state, replayed, keys, from_noise)


PARTS: dict[str, Callable[[Agent, Inputs], Any]] = {
    "world model": update_world_model,
    "- encoder": encode,
    "- observe": filter_states,
    "- predictions": predict,
    "behaviors": update_all_behaviors,
}


def _observe(agent: Agent, params: Any, embed: Array, state: TrainState, batch: Batch):
    rssm, (b, length) = agent.wm.rssm, batch.reward.shape
    action = prepare_action(batch.action, rssm.action_size, agent.wm.factors)
    noise, start = rssm.latent.noise(state.key, (length, b)), rssm.initial((b,))
    return observe(rssm, params, embed, action, batch.is_first, noise, start, sample=from_noise)


def _half_square(tree: Any) -> Array:
    """Return a loss whose gradient is not constant, which XLA could simplify."""
    return 0.5 * sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(tree))
