"""Turns one member's functions into M members': mapped over the leading axis, jit with donation,
and over a mesh of devices where there is one."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from dreamer_jax.agent import agent as agent_lib
from dreamer_jax.agent.agent import Agent
from dreamer_jax.agent.guard import keep_finite
from dreamer_jax.agent.placement import MEMBER, Placement
from dreamer_jax.runtime import compiler_options
from dreamer_jax.types import Hypers, PolicyCarry, TrainState


class MemberFns(NamedTuple):
    """Compiled functions of M members; every array has a leading axis M."""

    init: Callable  # (keys [M], hypers [M]) -> TrainState
    init_policy: Callable  # (keys [M], number of environments) -> PolicyCarry
    policy_step: Callable  # (params, carry, obs, is_first) -> carry, action [M, E, A]
    greedy_step: Callable  # the same with the mode of the actions
    explore_step: Callable  # (params, carry, obs, is_first, updates [M]) -> carry, action
    train_step: Callable  # (state, batch [M, B, T, ...]) -> state, metrics [M]; donates state
    report: Callable  # (params, batch, keys [M]) -> {key: (truth, prediction)}


def make_members(
    agent: Agent, placement: Placement | None = None, *, together: bool | None = None
) -> MemberFns:
    """Vectorise and compile an agent's functions.

    Keys are threefry: `vmap` then gives each member the stream it would have alone, which the
    faster rbg generator does not.

    Args:
        placement: where arguments are and results stay; None for wherever JAX puts them.
        together: as of `over_members`.
    """

    def step(state, batch):
        new, _, metrics = agent_lib.train_step(agent, state, batch)
        return keep_finite(state, new, metrics, agent.max_nonfinite)

    def init_policy(keys, envs):
        carry = jax.vmap(lambda key: agent_lib.init_policy(agent, key, envs))(keys)
        return carry if placement is None else placement.put(carry)

    def report(params, batch, keys):
        # Sequences chosen by hand are where their batch was.
        batch = batch if placement is None else placement.put(batch)
        return compiled_report(params, batch, keys)

    compile_ = partial(_compile, placement, together)
    update = {"donate_argnums": 0, "compiler_options": compiler_options()}
    policy, greedy = (partial(agent_lib.policy_step, agent, greedy=g) for g in (False, True))
    compiled_report = compile_(partial(agent_lib.report, agent), 3)
    return MemberFns(
        init=compile_(partial(agent_lib.init, agent), 2),
        init_policy=init_policy,
        policy_step=compile_(policy, 4),
        greedy_step=compile_(greedy, 4),
        explore_step=compile_(partial(agent_lib.explore_step, agent), 5),
        train_step=compile_(step, 2, batch_argument=1, **update),
        report=report,
    )


def _compile(
    placement: Placement | None,
    together: bool | None,
    fn: Callable,
    arguments: int,
    *,
    batch_argument: int | None = None,
    **options,
) -> Callable:
    """`fn` of one member -> the compiled function of all of them.

    On several devices each runs the program of its own members, so that members need no
    communication whatever the compiler makes of their operations; only devices that share a member
    talk.

    Args:
        arguments: how many `fn` takes; batch_argument: which of them is a batch.
    """
    fn = over_members(fn, together=together)
    if placement is None or placement.mesh is None:
        return jax.jit(fn, **options)
    spec = PartitionSpec(MEMBER)
    sharded = jax.shard_map(
        fn, mesh=placement.mesh, in_specs=spec, out_specs=spec, axis_names={MEMBER}, check_vma=False
    )
    shardings = [placement.by_member] * arguments
    if batch_argument is not None:
        shardings[batch_argument] = placement.by_sequence
    return jax.jit(
        sharded, in_shardings=tuple(shardings), out_shardings=placement.by_member, **options
    )


def over_members(fn: Callable, *, together: bool | None = None) -> Callable:
    """`fn` of one member -> of M members, whose arrays have a leading axis M.

    Of a single member the axis is taken off: a batch of one is no help to any compiler.

    Args:
        together: of several members, by `vmap`, all in every operation, which fills an accelerator;
            else one after the other. None: what the default backend is faster with. On a CPU `vmap`
            makes batches of small matrices, which XLA's CPU backend multiplies more slowly, and
            copies first where they are transposed; and the temporaries of all members are there
            at once.
    """

    def of_members(*args):
        if len(jax.tree.leaves(args)[0]) == 1:
            results = fn(*jax.tree.map(lambda x: x[0], args))
            return jax.tree.map(lambda x: x[None], results)
        if together or (together is None and jax.default_backend() != "cpu"):
            return jax.vmap(fn)(*args)
        return jax.lax.map(lambda own: fn(*own), args)

    return of_members


def stack_hypers(hypers: Sequence[Hypers]) -> Hypers:
    """M records of scalars -> one record of float32 [M] arrays."""
    return jax.tree.map(lambda *values: jnp.asarray(np.array(values, np.float32)), *hypers)


def member(tree: TrainState | PolicyCarry, index: int):
    """Member number `index` of a stacked tree."""
    return jax.tree.map(lambda leaf: leaf[index], tree)
