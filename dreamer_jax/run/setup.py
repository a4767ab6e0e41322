"""Build the parts of a run from its config; nothing here steps or trains."""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium
import jax
from ml_collections import ConfigDict

from dreamer_jax import config as config_lib
from dreamer_jax.agent import agent as agent_lib
from dreamer_jax.agent.agent import Agent
from dreamer_jax.agent.build import make_agent
from dreamer_jax.agent.members import MemberFns, make_members, stack_hypers
from dreamer_jax.agent.placement import Placement, place, place_whole_members
from dreamer_jax.config import sweep
from dreamer_jax.envs import EnvSettings, env_maker
from dreamer_jax.envs.code import code_digests
from dreamer_jax.envs.jax_env import (
    JAX_TASKS,
    AdaptedEnv,
    JaxEnv,
    JaxVector,
    SingleEnv,
    is_jax_env,
    make_jax_env,
)
from dreamer_jax.envs.registry import TASKS
from dreamer_jax.envs.vector import FaultTolerantVector, OnFault, Probed, probe
from dreamer_jax.errors import UsageError, lookup
from dreamer_jax.replay.layout import Layout, make_layout
from dreamer_jax.replay.replay import Replay
from dreamer_jax.run.checkpoint import LOOP
from dreamer_jax.run.device_loop import DeviceLoop
from dreamer_jax.run.driver import replay_spec
from dreamer_jax.run.identity import EnvIdentity, maker_of
from dreamer_jax.run.processes import ALONE, Processes, all_members
from dreamer_jax.run.schedule import replay_slack, updates_due
from dreamer_jax.run.scratch import replay_directory
from dreamer_jax.run.workdir import WorkDir
from dreamer_jax.runtime import be_deterministic, make_backend, prepare
from dreamer_jax.seeding import EVAL_STREAM, INIT_KEY, POLICY_KEY, env_seed, member_keys
from dreamer_jax.types import ActionSpec, Params, PolicyCarry, TrainState

MakeEnv = Callable[[int], gymnasium.Env] | JaxEnv
AnyVector = FaultTolerantVector | JaxVector


@dataclass(frozen=True)
class RunSetup:
    """Everything that follows from a config alone, and makers of the parts that hold state."""

    config: ConfigDict  # of the whole run
    processes: Processes  # that train it; all else here is of this one and of its members
    numbers: range  # of the members in the whole run
    seeds: list[int]  # [M]
    agent: Agent
    fns: MemberFns
    action_space: gymnasium.Space
    make_env: Callable[[int], gymnasium.Env]  # from a seed to an adapted environment
    jax_env: AdaptedEnv | None  # the environment, if it is a JAX program
    identity: EnvIdentity  # of the environments
    env_code: dict[str, str]  # digests of the code that makes them
    statistics: list[str]  # their wrappers with running statistics
    placement: Placement
    readings: list[str]  # for people, how each entry of the observation was read and why
    device_loop: DeviceLoop | None  # if `config.loop` is 'device'

    @property
    def obs_keys(self) -> tuple[str, ...]:
        """The observation entries that the agent uses."""
        return tuple(self.agent.obs_shapes)

    @property
    def action(self) -> ActionSpec:
        """The agent's view of the action space."""
        return ActionSpec.of(self.action_space)

    def make_vector(
        self, use: int, num_envs: int, on_fault: OnFault, *, workers: int = 0
    ) -> AnyVector:
        """Make N = M * num_envs environments; see `row_maker` for their order.

        Args:
            use, num_envs: see `row_maker`.
            on_fault: called with the row and the text of each failure of an environment.
            workers: number of worker processes; 0 steps the environments in this process, as
                always if they are JAX programs.
        """
        make_row, count = self.row_maker(use, num_envs), len(self.seeds) * num_envs
        return self.open_vector(make_row, count, on_fault, workers=workers)

    def open_vector(
        self,
        make_row: Callable[[int, int], Any],
        count: int,
        on_fault: OnFault,
        *,
        workers: int = 0,
    ) -> AnyVector:
        """Make `count` environments by a function like those of `row_maker`."""
        if self.jax_env is not None:
            return JaxVector(self.jax_env, make_row, count)
        timeout = self.config.env.timeout
        return FaultTolerantVector(
            make_row, count, workers=min(workers, count), timeout=timeout, on_fault=on_fault
        )

    def row_maker(self, use: int, num_envs: int) -> Callable[[int, int], Any]:
        """Return a function (row, generation) -> environment; row m*E + e is member m's number e.

        If the environment is a JAX program, it returns the environment's seed.

        Args:
            use: ENV_STREAM or EVAL_STREAM, from which the environments' seeds are drawn.
            num_envs: E, environments per member.
        """
        make_env, seeds = self.make_env if self.jax_env is None else int, self.seeds

        # Workers receive a local function by value. For a global one they would import its module,
        # and JAX with it.
        def make_row(row: int, generation: int) -> gymnasium.Env:
            member, env = divmod(row, num_envs)
            return make_env(env_seed(seeds[member], use, env, generation))

        return make_row

    def make_replay(self, work: WorkDir) -> Replay:
        """Make or open the replay, on a disk or in memory as the config says."""
        replay = self.config.replay
        directory = replay_directory(self.config, work) if replay.storage == "disk" else None
        copied = replay.scratch is not None and replay.lost == "copy"
        return Replay(
            seeds=self.seeds,
            numbers=None if self.processes.count == 1 else self.numbers,
            batch=self.config.batch,
            sampling=self.config.replay.sampling,
            directory=directory,
            copy=work.replay if copied else None,
            **self._replay_sizes(),
        )

    def replay_bytes(self) -> int:
        """Return the size of the replay once it is full."""
        return len(self.seeds) * self.replay_layout().nbytes

    def replay_layout(self) -> Layout:
        """Return the layout of each member's replay."""
        layout = make_layout(**self._replay_sizes())
        if self.device_loop is not None:  # which needs no slack
            layout = dataclasses.replace(layout, slots=layout.capacity)
        return layout

    def _replay_sizes(self) -> dict:
        return replay_sizes(self.config, self.agent, self.action)

    def init_state(self) -> TrainState:
        """Return the initial learning state of all members."""
        hypers = sweep.member_hypers(self.config)
        hypers = stack_hypers([hypers[number] for number in self.numbers])
        return self.placement.put(self.fns.init(member_keys(self.seeds, INIT_KEY), hypers))

    def init_policy(self) -> PolicyCarry:
        """Return the policy carry before the first observation."""
        keys = member_keys(self.seeds, POLICY_KEY)
        return self.placement.put(self.fns.init_policy(keys, self.config.env.num_envs))

    def init_arrays(self, *, with_loop: bool = True) -> dict:
        """Return the arrays of a checkpoint as they are before the first step.

        Args:
            with_loop: include the state of a loop on the device.
        """
        arrays = {"state": self.init_state(), "carry": self.init_policy()}
        if self.device_loop is not None and with_loop:
            loop, replay = self.device_loop.init(self.seeds)
            arrays[LOOP] = self.placement.put({"state": loop, "replay": replay})
        return arrays

    def saved_shapes(self, num_members: int | None = None, *, with_loop: bool = True) -> dict:
        """Return the shapes and placement of a checkpoint's arrays, without allocating any.

        Args:
            num_members: members in the checkpoint; those of the run by default.
            with_loop: see `init_arrays`.
        """
        count = num_members or len(self.seeds) * self.processes.count
        sharding = all_members(self.placement, self.processes)
        shapes = jax.eval_shape(partial(self.init_arrays, with_loop=with_loop))

        def saved(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct((count, *x.shape[1:]), x.dtype, sharding=sharding)

        return jax.tree.map(saved, shapes)


def replay_sizes(config: ConfigDict, agent: Agent, action: ActionSpec) -> dict:
    """Return the arguments of `make_layout`."""
    return {
        "spec": replay_spec(agent.obs_shapes, action),
        "num_envs": config.env.num_envs,
        "capacity": config.replay.capacity,
        "slack": replay_slack(config),
        "length": config.length,
    }


def count_parameters(params: Params) -> int:
    """Return the number of scalars in a tree of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def build(
    config: ConfigDict,
    make_env_fn: MakeEnv | None = None,
    placement: Placement | None = None,
    processes: Processes = ALONE,
) -> RunSetup:
    """Validate the config, probe one environment's spaces, and build the agent.

    Args:
        config: see `config/keys.py`; a dict of some keys is completed by the defaults.
        make_env_fn: `seed -> gymnasium.Env` or a `JaxEnv`, used instead of `config.task`.
        placement: where arrays live; None follows the config.
        processes: those that train the run, each some of its members.

    Returns:
        The setup; nothing large has been allocated.

    Raises:
        UsageError: the config is invalid, or does not fit the devices or the environment.
    """
    config = prepared(config)
    if jax.config.jax_enable_x64:
        raise UsageError(
            "JAX computes in 64 bits (JAX_ENABLE_X64 or jax_enable_x64), and agents are of 32 "
            "bits: unset it, or use another process for what needs 64"
        )
    names = ("size", "images", "vectors", "grids", "action_repeat", "time_limit", "sticky", "noops")
    settings = {name: config.env[name] for name in names} | {"kwargs": _env_kwargs(config)}
    jax_env = _find_jax_env(config, make_env_fn, EnvSettings(**settings))
    seeds = sweep.member_seeds(config)
    on_device = config.loop == "device"
    numbers = processes.share(len(seeds))
    seeds = [seeds[number] for number in numbers]
    if on_device and processes.count > 1:
        raise UsageError("config.loop is 'device'; allowed with several processes: 'host'")
    if placement is None and on_device:
        placement = place_whole_members(len(seeds), config.devices)
    placement = placement or place(len(seeds), config.batch, config.devices)
    if jax_env is None:
        make_env = env_maker(config.task if make_env_fn is None else make_env_fn, **settings)
        make_one = partial(make_env, env_seed(seeds[0], EVAL_STREAM, 0))
        probed = probe(make_one, workers=config.env.workers, timeout=config.env.timeout)
    else:
        make_env, probed = partial(SingleEnv, jax_env), _describe_jax_env(jax_env)
    observation_space, action_space = probed.observation_space, probed.action_space
    spaces = str(observation_space), str(action_space)
    identity = EnvIdentity(*maker_of(config.task, make_env_fn), *spaces)
    code = probed.code | code_digests([make_env_fn] if callable(make_env_fn) else [])
    shapes = {key: (box.shape, box.dtype.name) for key, box in observation_space.items()}
    backend = make_backend(placement.devices[0])
    agent = make_agent(config, shapes, ActionSpec.of(action_space), backend)
    fns = make_members(agent, placement)
    layout = make_layout(**replay_sizes(config, agent, ActionSpec.of(action_space)))
    readings = dict(probed.readings)
    for key in set(observation_space) - set(agent.obs_shapes):
        readings[key] = (
            readings.get(key, key)
            + " (not used: its name does not match config.cnn_keys or config.mlp_keys)"
        )
    for key in agent.normalized:
        readings[key] = readings.get(key, key) + " (standardised: config.vector.normalize)"
    return RunSetup(
        config=config,
        processes=processes,
        numbers=numbers,
        seeds=seeds,
        agent=agent,
        fns=fns,
        action_space=action_space,
        make_env=make_env,
        jax_env=jax_env,
        identity=identity,
        env_code=code,
        statistics=probed.statistics,
        placement=placement,
        readings=list(readings.values()),
        device_loop=(DeviceLoop(config, agent, jax_env, layout, placement) if on_device else None),
    )


def prepared(config: ConfigDict) -> ConfigDict:
    """Return a complete and valid config, with the process set up for it, before JAX starts.

    Raises:
        UsageError: the config is invalid, or JAX has started without what it needs.
    """
    config = config_lib.normalize(config)
    config_lib.validate(config)
    if config.deterministic:
        be_deterministic()
    prepare()
    return config


def _find_jax_env(
    config: ConfigDict, make_env_fn: MakeEnv | None, settings: EnvSettings
) -> AdaptedEnv | None:
    """Make the environment if it is a JAX program; None if it is one of gymnasium."""
    name, on_device = config.task.partition(":")[0], config.loop == "device"
    if make_env_fn is None:
        lookup(TASKS | JAX_TASKS, name, "task")
        is_jax = name in JAX_TASKS and (on_device or name not in TASKS)
    else:
        is_jax = is_jax_env(make_env_fn)
    if on_device and not is_jax:
        given = "make_env" if make_env_fn is not None else f"config.task = {config.task!r}"
        raise UsageError(
            f"config.loop is 'device', but the environment of {given} is no JAX program; allowed: "
            f"the tasks {', '.join(sorted(JAX_TASKS))}, or a JaxEnv as make_env"
        )
    if not is_jax:
        return None
    env = make_jax_env(config.task, settings) if make_env_fn is None else make_env_fn
    if config.env.workers:
        raise UsageError(
            f"config.env.workers is {config.env.workers}; allowed: 0, since the environment is a "
            "JAX program, and all are stepped by one call in this process"
        )
    return AdaptedEnv(env, settings)


def _describe_jax_env(env: AdaptedEnv) -> Probed:
    code = code_digests([type(env.unwrapped)])
    return Probed(env.observation_space, env.action_space, code, [], env.readings)


def _env_kwargs(config: ConfigDict) -> dict | None:
    kwargs = config.env.kwargs
    # As a resumed run reads them: a tuple is a list in JSON.
    return kwargs and json.loads(json.dumps({**kwargs}))


def dry_run(config: ConfigDict, make_env_fn: MakeEnv | None = None) -> dict:
    """Describe the run that `build` makes of these arguments, without training or allocating.

    Returns:
        The parameters of each part; the number, seeds and listed hyperparameters of the members;
        the environment, devices, replay bytes, agent steps, frames and updates.
    """
    setup = build(config, make_env_fn)
    config = setup.config
    members = sweep.members(config)
    init, hypers = partial(agent_lib.init, setup.agent), sweep.member_hypers(config)[0]
    state = jax.eval_shape(init, jax.random.key(0), hypers)
    params = {group: state.params[group] for group in state.opt_states}
    counts = {name: count_parameters(part) for name, part in params.pop("model").items()}
    counts["world_model"] = sum(counts.values())
    return {
        "parameters": counts | {name: count_parameters(part) for name, part in params.items()},
        "members": len(setup.seeds),
        "seeds": setup.seeds,
        "hypers": {n: [m.values[n] for m in members] for n in sweep.member_lists(config)},
        "environment": str(setup.identity),
        "devices": len(setup.placement.devices),
        "replay_bytes": setup.replay_bytes(),
        "steps": config.steps,
        "frames": config.steps * config.env.action_repeat,
        "updates": updates_due(config, config.steps),
    }


def describe(setup: RunSetup, work: WorkDir) -> str:
    """Return a summary of a run's size, and a line for every entry of the observation."""
    on_disk = setup.config.replay.storage == "disk"
    where = replay_directory(setup.config, work) if on_disk else "memory"
    if setup.device_loop is not None:
        where = "device memory, and at most as much in every checkpoint"
    devices = len(setup.placement.devices)
    on = f" on {devices} devices" if devices > 1 else ""
    processes = setup.processes
    of = f" of {len(setup.seeds) * processes.count}" if processes.count > 1 else ""
    on += f" in process {processes.index} of {processes.count}" if processes.count > 1 else ""
    size = describe_bytes(setup.replay_bytes())
    grows = "grows to" if setup.device_loop is None else "takes"
    members = f"{len(setup.seeds)}{of} member{'s' if of or len(setup.seeds) > 1 else ''}"
    summary = f"{members}{on}; replay {grows} {size} in {where}"
    return "\n".join([summary, *setup.readings])


def about_wrappers(setup: RunSetup) -> str:
    """Return what the user should know about the environments' wrappers, or ''."""
    if not setup.statistics:
        return ""
    return (
        f"{' and '.join(setup.statistics)} adapt to what each environment has seen: every "
        "environment has running statistics of its own, and those of an evaluation begin anew, so "
        "that the policy sees other numbers there; fixed statistics in make_env avoid that, and "
        "for observations config.vector.normalize"
    )


def describe_bytes(count: int) -> str:
    """Format a number of bytes with the largest unit that it reaches."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"
