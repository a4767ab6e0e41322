"""Turns one member's functions into M members': vmap over the leading axis, jit with donation."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax import agent as agent_lib
from dreamer_jax.agent import Agent
from dreamer_jax.train_state import TrainState
from dreamer_jax.types import Array, Hypers, PolicyCarry


class MemberFns(NamedTuple):
    """Compiled functions of M members; every array has a leading axis M."""

    init: Callable  # (keys [M], hypers [M]) -> TrainState
    init_policy: Callable  # (keys [M], number of environments) -> PolicyCarry
    policy_step: Callable  # (params, carry, obs, is_first) -> carry, action [M, E, A]
    greedy_step: Callable  # the same with the mode of the actions
    train_step: Callable  # (state, batch [M, B, T, ...]) -> state, metrics [M]; donates state
    report: Callable  # (params, batch, keys [M]) -> {key: (truth, prediction)}


def make_members(agent: Agent) -> MemberFns:
    """Vectorise and compile an agent's functions.

    Keys are threefry: `vmap` then gives each member the stream it would have alone, which the
    faster rbg generator does not.
    """

    def step(state, batch):
        state, _, metrics = agent_lib.train_step(agent, state, batch)
        return state, metrics

    def policy(greedy):
        return jax.jit(jax.vmap(partial(agent_lib.policy_step, agent, greedy=greedy)))

    return MemberFns(
        init=jax.jit(jax.vmap(partial(agent_lib.init, agent))),
        init_policy=lambda keys, envs: jax.vmap(
            lambda key: agent_lib.init_policy(agent, key, envs)
        )(keys),
        policy_step=policy(greedy=False),
        greedy_step=policy(greedy=True),
        train_step=jax.jit(jax.vmap(step), donate_argnums=0),
        report=jax.jit(jax.vmap(partial(agent_lib.report, agent))),
    )


def member_keys(seeds: Sequence[int], use: int) -> Array:
    """One key per seed for one numbered use: [M] typed threefry keys."""
    keys = [jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), use) for seed in seeds]
    return jnp.stack(keys)


def stack_hypers(hypers: Sequence[Hypers]) -> Hypers:
    """M records of scalars -> one record of float32 [M] arrays."""
    return jax.tree.map(lambda *values: jnp.asarray(np.array(values, np.float32)), *hypers)


def member(tree: TrainState | PolicyCarry, index: int):
    """Member number `index` of a stacked tree."""
    return jax.tree.map(lambda leaf: leaf[index], tree)
