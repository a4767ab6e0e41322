"""One member's functions mapped over M members, compiled, and placed on devices."""

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
from dreamer_jax.agent.report import report as report_one
from dreamer_jax.runtime import Backend
from dreamer_jax.types import Batch, Hypers, MetricVector, PolicyCarry, TrainState


class MemberFns(NamedTuple):
    """Compiled functions of M members; every array has a leading axis M."""

    init: Callable  # (keys [M], hypers [M]) -> TrainState
    init_policy: Callable  # (keys [M], number of environments) -> PolicyCarry
    policy_step: Callable  # (params, carry, obs, is_first) -> carry, action [M, E, A]
    greedy_step: Callable  # as policy_step, with the mode of the action distribution
    explore_step: Callable  # (params, carry, obs, is_first, updates [M]) -> carry, action
    train_step: Callable  # (state, batch [M, B, T, ...]) -> state, metrics [M]; donates state
    predict_reward: Callable  # (params, carry) -> rewards [M, E] for reaching the carry's states
    value: Callable  # (params, carry) -> values [M, E], or None without a critic
    report: Callable  # (state, batch, keys [M]) -> Report


def make_members(agent: Agent, placement: Placement | None = None) -> MemberFns:
    """Vectorise and compile an agent's functions.

    Keys must be threefry: under `vmap` each member then gets the stream that it has alone, which
    the faster rbg generator does not guarantee.

    Args:
        placement: where arguments lie and results stay; None leaves that to JAX.
    """

    def init(keys, hypers):
        # JAX takes options for a whole program only, and shapes are found by tracing.
        traced = isinstance(keys, jax.core.Tracer)
        return (traced_init if traced else compiled_init)(keys, hypers)

    def init_policy(keys, envs):
        carry = jax.vmap(lambda key: agent_lib.init_policy(agent, key, envs))(keys)
        return carry if placement is None else placement.put(carry)

    def report(state, batch, keys):
        # Where devices share a member, its batch is divided among them.
        batch = batch if placement is None else placement.put(batch)
        return compiled_report(state, batch, keys)

    compile_ = partial(_compile, agent.backend, placement)
    draw, rare = partial(agent_lib.init, agent), dict(agent.backend.rare_options)
    traced_init, compiled_init = compile_(draw), compile_(draw, compiler_options=rare)
    policy, greedy = (partial(agent_lib.policy_step, agent, greedy=g) for g in (False, True))
    compiled_report = compile_(partial(report_one, agent), compiler_options=rare)
    options = dict(agent.backend.compiler_options)
    return MemberFns(
        init=init,
        init_policy=init_policy,
        policy_step=compile_(policy),
        greedy_step=compile_(greedy),
        explore_step=compile_(partial(agent_lib.explore_step, agent)),
        train_step=compile_(
            partial(guarded_train_step, agent),
            takes_batch=True,
            donate_argnums=0,
            compiler_options=options,
        ),
        predict_reward=compile_(partial(agent_lib.predict_reward, agent)),
        value=compile_(partial(agent_lib.value, agent)),
        report=report,
    )


def guarded_train_step(
    agent: Agent, state: TrainState, batch: Batch
) -> tuple[TrainState, MetricVector]:
    """Make one member's update, unless it is not finite; see `keep_finite`."""
    new, updates = agent_lib.train_step(agent, state, batch)
    return keep_finite(state, new, updates, agent.max_nonfinite)


def _compile(
    backend: Backend,
    placement: Placement | None,
    fn: Callable,
    *,
    takes_batch: bool = False,  # as its second argument of two
    **options,
) -> Callable:
    """Compile a function of one member for all members, with options for `jax.jit`.

    On several devices each runs the program of its own members, so that members never communicate,
    whatever the compiler makes of their operations; only devices that share a member do.
    """
    fn = over_members(fn, together=backend.map_members_together)
    if placement is None or placement.mesh is None:
        return jax.jit(fn, **options)
    spec = PartitionSpec(MEMBER)
    sharded = jax.shard_map(
        fn, mesh=placement.mesh, in_specs=spec, out_specs=spec, axis_names={MEMBER}, check_vma=False
    )
    here = placement.by_member
    arguments = (here, placement.by_sequence) if takes_batch else here
    return jax.jit(sharded, in_shardings=arguments, out_shardings=here, **options)


def over_members(fn: Callable, *, together: bool) -> Callable:
    """Map a function of one member over arrays with a leading axis M.

    A single member is not mapped: a batch of one helps no compiler.

    Args:
        together: map with `vmap` rather than `lax.map`, see `Backend.map_members_together`.
    """

    def of_members(*args):
        if len(jax.tree.leaves(args)[0]) == 1:
            results = fn(*jax.tree.map(lambda x: x[0], args))
            return jax.tree.map(lambda x: x[None], results)
        if together:
            return jax.vmap(fn)(*args)
        return jax.lax.map(lambda member_args: fn(*member_args), args)

    return of_members


def stack_hypers(hypers: Sequence[Hypers]) -> Hypers:
    """Stack M records of scalars into one record of float32 arrays [M]."""
    return jax.tree.map(lambda *values: jnp.asarray(np.array(values, np.float32)), *hypers)


def member(tree: TrainState | PolicyCarry, index: int):
    """Return member number `index` of a stacked tree."""
    return jax.tree.map(lambda leaf: leaf[index], tree)
