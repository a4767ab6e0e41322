"""The loop of `config.loop = "device"`: environments, replay and updates in one program.

The program takes up to a given number of turns and returns, so that the host can log, evaluate and
save. All that it needs is in its arguments: where it returns has no effect on the results.

    while something is to do, and turns are left:
        while updates are due:
            draw a batch from the replay, update every member                     one turn each
        reset the environments whose episode ended; record the first observations
        act: at random in the prefill, else by the policy
        step all environments; record the transitions                             one turn

The order is that of the host's loop, but for two things: an update's batch is drawn when the update
is made, not before; and the policy waits for all updates that are due, not all but the last one.
"""

import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import PartitionSpec
from ml_collections import ConfigDict

from dreamer_jax.agent import agent as agent_lib
from dreamer_jax.agent.agent import Agent
from dreamer_jax.agent.members import guarded_train_step, over_members
from dreamer_jax.agent.placement import MEMBER, Placement
from dreamer_jax.agent.report import CANDIDATES, least_interrupted
from dreamer_jax.envs.jax_env import AdaptedEnv
from dreamer_jax.envs.jax_env.rows import EnvRows, init_rows, reset_rows, step_rows
from dreamer_jax.replay import device as replay_lib
from dreamer_jax.replay.device import DeviceReplay
from dreamer_jax.replay.layout import Layout
from dreamer_jax.replay.prefetch import to_batch
from dreamer_jax.run.programs import Programs
from dreamer_jax.run.schedule import explores, updates_due, video_length
from dreamer_jax.seeding import ACTION_KEY, DRAW_KEY, ENV_STREAM, env_seed, member_keys
from dreamer_jax.types import (
    ActionSpec,
    Array,
    Batch,
    Hypers,
    MetricVector,
    PolicyCarry,
    TrainState,
)


@struct.dataclass
class EpisodeSums:
    """The episodes of each member that finished since the last log line, [M] each."""

    count: Array  # int32
    total: Array  # float32, sum of returns
    low: Array  # float32, smallest return
    high: Array  # float32
    steps: Array  # int32, sum of lengths

    @classmethod
    def none(cls, members: int) -> "EpisodeSums":
        """Return the sums of no episodes."""
        count, steps = (jnp.zeros(members, jnp.int32) for _ in range(2))
        # Not weakly typed, as no result of the program is: it would be compiled twice.
        total, low, high = (jnp.full(members, x, jnp.float32) for x in (0.0, jnp.inf, -jnp.inf))
        return cls(count, total, low, high, steps)

    def add(self, finished: Array, returns: Array, lengths: Array) -> "EpisodeSums":
        """Add the episodes of a mask [M, E]."""
        return EpisodeSums(
            self.count + finished.sum(1),
            self.total + jnp.where(finished, returns, 0).sum(1),
            jnp.minimum(self.low, jnp.where(finished, returns, jnp.inf).min(1)),
            jnp.maximum(self.high, jnp.where(finished, returns, -jnp.inf).max(1)),
            self.steps + jnp.where(finished, lengths, 0).sum(1),
        )


@struct.dataclass
class LoopState:
    """The state of the loop beside learners, policies and replay."""

    rows: EnvRows  # [M, E, ...]
    is_first: Array  # [M, E] bool, the environments to reset before the next step
    returns: Array  # [M, E] float32, of the episodes in progress
    lengths: Array  # [M, E] int32
    episodes: EpisodeSums
    sums: MetricVector  # of the metrics of updates since the last log line
    action_key: Array  # [M], folded with the env step
    draw_key: Array  # [M], split at every update
    empty: Array  # [M] bool, members that had nothing to learn from in the last update


@struct.dataclass
class Progress:
    """Counts of steps and updates, the same for all members; scalars, int32."""

    env_step: Array
    update: Array
    turns: Array  # left in this call


@struct.dataclass
class Carried:
    """Arrays that the program takes and returns changed."""

    progress: Progress
    state: TrainState
    carry: PolicyCarry
    loop: LoopState
    replay: DeviceReplay


class DeviceLoop:
    """The program of a config, and its initial state.

    Args:
        config: of the run.
        agent: of one member.
        env: the environment.
        layout: of one member's replay.
        placement: where arrays live; every member is on one device.
    """

    def __init__(
        self,
        config: ConfigDict,
        agent: Agent,
        env: AdaptedEnv,
        layout: Layout,
        placement: Placement,
    ):
        self._config, self._agent, self._env = config, agent, env
        self._layout, self._placement = layout, placement
        self._action = ActionSpec.of(env.action_space)
        self._map = partial(over_members, together=agent.backend.map_members_together)
        self._train_step = jax.jit(partial(guarded_train_step, agent))  # so that it is traced once
        self._jitted = self._jit()
        self._program = self._jitted

    def init(self, seeds: Sequence[int]) -> tuple[LoopState, DeviceReplay]:
        """Return the state before the first step."""
        members, count = len(seeds), self._config.env.num_envs
        env_seeds = [[env_seed(seed, ENV_STREAM, e) for e in range(count)] for seed in seeds]
        zeros = jnp.zeros((members, count))
        loop = LoopState(
            rows=jax.vmap(partial(init_rows, self._env))(np.array(env_seeds, np.uint32)),
            is_first=jnp.ones((members, count), bool),
            returns=zeros,
            lengths=zeros.astype(jnp.int32),
            episodes=EpisodeSums.none(members),
            sums=MetricVector(jnp.zeros((members, len(self._metrics))), self._metrics),
            action_key=member_keys(seeds, ACTION_KEY),
            draw_key=member_keys(seeds, DRAW_KEY),
            empty=jnp.zeros(members, bool),
        )
        return loop, replay_lib.init_replay(self._layout, members, self._config.length)

    def keep(self, programs: Programs) -> "DeviceLoop":
        """Return the loop, which calls its kept program."""
        kept = copy.copy(self)
        kept._program = programs.keep_function("device_loop", self._jitted)
        return kept

    def run(self, carried: Carried, until: int, *, catch_up: bool) -> Carried:
        """Take turns until the env step is reached, or no turns are left; the argument is donated.

        Args:
            until: number of env steps at which to stop.
            catch_up: also make the updates that are due at `until`.
        """
        limits = jnp.asarray(until, jnp.int32), jnp.asarray(catch_up)
        return self._program(limits, carried)

    def lower(self, shapes: Mapping[str, Any]) -> jax.stages.Lowered:
        """Return the program before it is compiled, without allocating its arguments.

        Args:
            shapes: those of a checkpoint, `RunSetup.saved_shapes`.
        """
        count = jax.ShapeDtypeStruct((), jnp.int32)
        limits, loop = (count, jax.ShapeDtypeStruct((), jnp.bool_)), shapes["loop"]
        own = shapes["state"], shapes["carry"], loop["state"], loop["replay"]
        carried = Carried(Progress(count, count, count), *own)
        return self._jitted.lower(limits, carried)

    def batch(self, loop: LoopState, replay: DeviceReplay) -> Batch:
        """Return a batch for diagnostics, which changes nothing."""
        return self._peek(jax.vmap(partial(jax.random.fold_in, data=0))(loop.draw_key), replay)

    @functools.cached_property
    def _peek(self) -> Callable:
        return jax.jit(lambda keys, replay: self._draw(keys, replay)[0])

    @functools.cached_property
    def video_batch(self) -> Callable:
        """The function (keys [M], replay) -> sequences for videos; see `Trainer._video_batch`."""
        length = video_length(self._config)

        def draw(keys: Array, replay: DeviceReplay) -> Batch:
            options = {"sampling": "time", "batch": CANDIDATES, "length": length}
            draws = replay_lib.draw(replay, keys, **options)
            chosen = least_interrupted(replay_lib.gather(replay, draws, length)["is_first"])
            env, start = (jnp.take_along_axis(x, chosen, 1) for x in (draws.env, draws.start))
            shown = draws.replace(env=env, start=start)
            return to_batch(replay_lib.gather(replay, shown, length))

        return jax.jit(draw)

    @functools.cached_property
    def _metrics(self) -> tuple[str, ...]:
        """The names of an update's metrics."""

        def update(key, hypers):
            state = agent_lib.init(self._agent, key, hypers)
            zeros = {
                key: jnp.zeros((self._config.batch, self._config.length, *shape), dtype)
                for key, (shape, dtype) in self._layout.entries.items()
            }
            return self._train_step(state, to_batch(zeros))[1]

        key = jax.random.key(0, impl="threefry2x32")
        hypers = Hypers(**dict.fromkeys(Hypers.__dataclass_fields__, 0.0))
        return tuple(jax.eval_shape(update, key, hypers))

    def _jit(self) -> Callable:
        options = {
            "donate_argnums": 1,
            "compiler_options": dict(self._agent.backend.compiler_options),
        }
        mesh = self._placement.mesh
        if mesh is None:
            return jax.jit(self._run, **options)
        shared, own = PartitionSpec(), PartitionSpec(MEMBER)
        specs = Carried(shared, own, own, own, own)
        sharded = jax.shard_map(
            self._run, mesh=mesh, in_specs=(shared, specs), out_specs=specs, check_vma=False
        )
        return jax.jit(sharded, **options)

    def _run(self, limits: tuple[Array, Array], carried: Carried) -> Carried:
        until, catch_up = limits

        def due(progress: Progress) -> Array:
            missing = progress.update < updates_due(self._config, progress.env_step)
            return missing & (progress.turns > 0)

        def steps_left(progress: Progress) -> Array:
            return (progress.env_step < until) & (progress.turns > 0)

        def turn(carried: Carried) -> Carried:
            replay = carried.replay  # not carried by the loop of updates, which does not change it

            def update(learning: tuple) -> tuple:
                return self._update(*learning, replay)

            learning = carried.progress, carried.state, carried.loop
            learning = jax.lax.while_loop(lambda x: due(x[0]), update, learning)
            progress, state, loop = learning
            carried = carried.replace(progress=progress, state=state, loop=loop)
            # A loop of one or no steps, because a condition would copy the replay.
            is_ready = steps_left(progress) & ~due(progress)
            return jax.lax.fori_loop(0, is_ready.astype(jnp.int32), self._step, carried)

        def unfinished(carried: Carried) -> Array:
            progress = carried.progress
            return steps_left(progress) | (catch_up & due(progress))

        return jax.lax.while_loop(unfinished, turn, carried)

    def _draw(self, keys: Array, replay: DeviceReplay) -> tuple[Batch, Array]:
        """Return a batch drawn by keys [M], and which members have none."""
        config = self._config
        draws = replay_lib.draw(
            replay,
            keys,
            sampling=config.replay.sampling,
            batch=config.batch,
            length=config.length,
        )
        return to_batch(replay_lib.gather(replay, draws, config.length)), draws.empty

    def _update(
        self, progress: Progress, state: TrainState, loop: LoopState, replay: DeviceReplay
    ) -> tuple[Progress, TrainState, LoopState]:
        keys = jax.vmap(jax.random.split)(loop.draw_key)
        batch, empty = self._draw(keys[:, 1], replay)
        new, metrics = self._map(self._train_step)(state, batch)
        # Having nothing to learn from must not freeze a member.
        new = new.replace(nonfinite=jnp.where(empty, state.nonfinite, new.nonfinite))
        sums = jax.tree.map(jnp.add, loop.sums, metrics)
        progress = progress.replace(update=progress.update + 1, turns=progress.turns - 1)
        return progress, new, loop.replace(draw_key=keys[:, 0], sums=sums, empty=empty)

    def _step(self, _: Array, carried: Carried) -> Carried:
        progress, loop, replay = carried.progress, carried.loop, carried.replay
        first, everyone = loop.is_first, jnp.ones_like(loop.is_first)
        reset = jax.vmap(partial(reset_rows, self._env))
        rows = jax.lax.cond(first.any(), reset, lambda rows, mask: rows, loop.rows, first)
        returns, lengths = (jnp.where(first, 0, x) for x in (loop.returns, loop.lengths))
        no_action = jnp.asarray(self._action.none(first.shape))
        nothing = jnp.zeros_like(first)
        flags = {"is_first": first, "is_last": nothing, "is_terminal": nothing}
        reward = jnp.zeros_like(returns)
        replay = self._record(replay, rows, no_action, reward, flags, first)

        carry, action = jax.lax.cond(
            progress.env_step < self._config.prefill,
            self._act_at_random,
            self._act,
            carried.replace(loop=loop.replace(rows=rows), replay=None),
        )
        step = jax.vmap(partial(step_rows, self._env))
        rows, reward, is_last, is_terminal = step(rows, action, everyone)
        flags = {"is_first": nothing, "is_last": is_last, "is_terminal": is_terminal}
        replay = self._record(replay, rows, action, reward, flags, everyone)
        returns, lengths = returns + reward, lengths + 1
        loop = loop.replace(
            rows=rows,
            is_first=is_last,
            returns=returns,
            lengths=lengths,
            episodes=loop.episodes.add(is_last, returns, lengths),
        )
        env_step = progress.env_step + self._config.env.num_envs
        progress = progress.replace(env_step=env_step, turns=progress.turns - 1)
        return carried.replace(progress=progress, carry=carry, loop=loop, replay=replay)

    def _record(
        self,
        replay: DeviceReplay,
        rows: EnvRows,
        action: Array,
        reward: Array,
        flags: dict[str, Array],
        mask: Array,
    ) -> DeviceReplay:
        step = {f"obs/{key}": rows.obs[key] for key in self._agent.obs_shapes}
        step |= {"action": action, "reward": reward} | flags
        return replay_lib.add(replay, step, mask, self._config.length)

    def _act_at_random(self, carried: Carried) -> tuple[PolicyCarry, Array]:
        env_step, shape = carried.progress.env_step, carried.loop.is_first.shape

        def act(key: Array) -> Array:
            key = jax.random.fold_in(key, env_step)
            size = (shape[1], *self._action.shape)
            if not self._action.discrete:
                return jax.random.uniform(key, size, minval=-1.0)
            choices = np.array(self._action.factors or self._action.size, np.int32)
            return jax.random.randint(key, size, 0, np.broadcast_to(choices, size))

        return carried.carry, jax.vmap(act)(carried.loop.action_key)

    def _act(self, carried: Carried) -> tuple[PolicyCarry, Array]:
        loop, params = carried.loop, carried.state.params
        obs = {key: loop.rows.obs[key] for key in self._agent.obs_shapes}
        inputs = params, carried.carry, obs, loop.is_first
        explore = self._map(partial(agent_lib.explore_step, self._agent))
        policy = self._map(partial(agent_lib.policy_step, self._agent))
        exploring = explores(self._config, carried.progress.env_step)
        if exploring is True:
            carry, action = explore(*inputs, carried.state.update)
        else:
            carry, action = jax.lax.cond(
                exploring, explore, lambda *args: policy(*args[:-1]), *inputs, carried.state.update
            )
        return carry, _to_env_actions(action, self._action)


def _to_env_actions(action: Array, spec: ActionSpec) -> Array:
    """Convert policy actions [M, E, A] to what environments take; see `driver.to_env_actions`."""
    if not spec.discrete:
        return jnp.nan_to_num(action)
    if not spec.factors:
        return action.argmax(-1).astype(jnp.int32)
    onehots = jnp.split(action, np.cumsum(spec.factors)[:-1], -1)
    return jnp.stack([onehot.argmax(-1) for onehot in onehots], -1).astype(jnp.int32)
