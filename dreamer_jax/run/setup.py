"""Builds the parts of a run from its config; nothing here steps or trains."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import gymnasium
import jax
import numpy as np
from ml_collections import ConfigDict

from dreamer_jax import config as config_lib
from dreamer_jax.agent import agent as agent_lib
from dreamer_jax.agent.agent import Agent
from dreamer_jax.agent.build import make_agent
from dreamer_jax.agent.members import MemberFns, make_members, stack_hypers
from dreamer_jax.agent.placement import Placement, place
from dreamer_jax.config import sweep
from dreamer_jax.envs import env_maker
from dreamer_jax.envs.vector import FaultTolerantVector, OnFault
from dreamer_jax.replay.replay import Replay
from dreamer_jax.run.driver import make_row_env, replay_spec
from dreamer_jax.run.workdir import WorkDir
from dreamer_jax.runtime import make_backend
from dreamer_jax.seeding import EVAL_STREAM, INIT_KEY, POLICY_KEY, env_seed, member_keys
from dreamer_jax.types import ActionSpec, Params, PolicyCarry, TrainState

MakeEnv = Callable[[int], gymnasium.Env]


@dataclass(frozen=True)
class RunSetup:
    """What follows from a config alone."""

    config: ConfigDict
    seeds: list[int]
    agent: Agent
    fns: MemberFns
    action_space: gymnasium.Space
    make_env: MakeEnv  # from a seed to an adapted environment
    placement: Placement

    @property
    def labels(self) -> list[dict]:
        """What every member's records say of its hyperparameters, see `metrics.HYPER`."""
        return sweep.member_labels(self.config)

    @property
    def obs_keys(self) -> tuple[str, ...]:
        """Observation entries that the agent uses."""
        return tuple(self.agent.obs_shapes)

    @property
    def action(self) -> ActionSpec:
        """The agent's view of the action space."""
        return ActionSpec.of(self.action_space)

    def make_vector(
        self, use: int, num_envs: int, on_fault: OnFault, *, workers: int = 0
    ) -> FaultTolerantVector:
        """N = M * num_envs environments, row m*E + e seeded by member m's seed, use and e.

        Args:
            on_fault: called with the row and the text of each failure of an environment.
        """
        make_row = partial(make_row_env, self.make_env, self.seeds, use, num_envs)
        return FaultTolerantVector(
            make_row,
            len(self.seeds) * num_envs,
            workers=workers,
            timeout=self.config.env.timeout,
            on_fault=on_fault,
        )

    def make_replay(self, workdir: WorkDir) -> Replay:
        """The replay, in the work directory or in memory as the config says."""
        directory = workdir.replay if self.config.replay.storage == "disk" else None
        return Replay(
            seeds=self.seeds,
            batch=self.config.batch,
            sampling=self.config.replay.sampling,
            directory=directory,
            **self._replay_sizes(),
        )

    def replay_bytes(self) -> int:
        """What the replay takes once it is full."""
        return Replay.plan(num_members=len(self.seeds), **self._replay_sizes())

    def _replay_sizes(self) -> dict:
        return {
            "spec": replay_spec(self.agent.obs_shapes, self.action),
            "num_envs": self.config.env.num_envs,
            "capacity": self.config.replay.capacity,
            "slack": replay_slack(self.config),
            "length": self.config.length,
        }

    def init_state(self) -> TrainState:
        """Initial learning state of all members."""
        hypers = stack_hypers(sweep.member_hypers(self.config))
        return self.placement.put(self.fns.init(member_keys(self.seeds, INIT_KEY), hypers))

    def init_policy(self) -> PolicyCarry:
        """Policy carry before the first observation."""
        keys = member_keys(self.seeds, POLICY_KEY)
        return self.placement.put(self.fns.init_policy(keys, self.config.env.num_envs))

    def saved_shapes(self) -> dict:
        """Shapes of what a checkpoint holds, and where it goes; nothing is allocated."""
        sharding = self.placement.by_member
        shapes = jax.eval_shape(lambda: {"state": self.init_state(), "carry": self.init_policy()})
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes
        )

    def count_parameters(self) -> dict[str, int]:
        """Parameters of one member's parts."""
        hypers = sweep.member_hypers(self.config)[0]
        init = partial(agent_lib.init, self.agent)
        params = jax.eval_shape(init, jax.random.key(0), hypers).params
        counts = {name: count_parameters(part) for name, part in params["model"].items()}
        counts["world_model"] = sum(counts.values())
        return counts | {n: count_parameters(part) for n, part in params.items() if n != "model"}


def count_parameters(params: Params) -> int:
    """Number of scalars in a tree of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def env_settings(config: ConfigDict) -> dict:
    """The environment's part of a config as arguments of `env_maker`."""
    names = ("action_repeat", "time_limit", "sticky", "noops")
    return {name: config.env[name] for name in names}


def replay_slack(config: ConfigDict) -> int:
    """Records per stream beyond the capacity."""
    slack = config.replay.slack
    steps = -(-config.replay.capacity // 5) if slack is None else slack
    return -(-steps // config.env.num_envs) + 2 * replay_margin(config)


def replay_margin(config: ConfigDict) -> int:
    """Records per stream that may pass from a draw to the checkpoint which keeps its indices."""
    return 100 + 4 * -(-config.train_every // config.env.num_envs)


def build(
    config: ConfigDict, make_env_fn: MakeEnv | None = None, placement: Placement | None = None
) -> RunSetup:
    """Check the config, look at one environment, and build the agent. Allocates nothing large.

    Args:
        placement: of arrays; None for as the config says.

    Raises:
        ValueError: what validation, the devices or the environment's spaces object to.
    """
    config_lib.validate(config)
    make_env = env_maker(make_env_fn or config.task, **env_settings(config))
    seeds = sweep.member_seeds(config)
    placement = placement or place(len(seeds), config.batch, config.devices)
    probe = make_env(env_seed(seeds[0], EVAL_STREAM, 0))
    observation_space, action_space = probe.observation_space, probe.action_space
    probe.close()
    shapes = {key: (box.shape, box.dtype.name) for key, box in observation_space.items()}
    backend = make_backend(placement.devices[0])
    agent = make_agent(config, shapes, ActionSpec.of(action_space), backend)
    return RunSetup(
        config=config,
        seeds=seeds,
        agent=agent,
        fns=make_members(agent, placement),
        action_space=action_space,
        make_env=make_env,
        placement=placement,
    )


def updates_due(config: ConfigDict, env_step: int) -> int:
    """Updates that should have been made after `env_step` agent steps of a member."""
    if env_step < config.prefill:
        return 0
    times = (env_step - config.prefill) // config.train_every
    return config.pretrain + times * config.train_updates


def explores(config: ConfigDict, env_step: int) -> bool:
    """Whether experience is collected with exploration after `env_step` agent steps."""
    return config.expl.until == 0 or env_step < config.expl.until


def records_due(config: ConfigDict, env_step: int) -> list[str]:
    """What is to be made after the step that came to `env_step`, by name and in this order.

    A step of E environments comes E further: an interval is due where it was met or passed. At the
    end everything is due, with the updates that are still missing.
    """
    if env_step >= config.steps:
        return ["log", "updates", "evaluation", "pictures", "checkpoint"]
    intervals = {
        "log": config.log_every,
        "evaluation": config.eval_every,
        "pictures": config.video_every,
        "checkpoint": config.checkpoint_every,
    }
    before = env_step - config.env.num_envs
    return [
        name for name, every in intervals.items() if every and env_step // every > before // every
    ]


def dry_run(config: ConfigDict, make_env_fn: MakeEnv | None = None) -> dict:
    """Build everything and say what a run would be, without training or allocating.

    Returns:
        Parameters of each part, members with their seeds and with their values of what is in
        `config.members`, devices, replay bytes, agent steps, frames and updates.
    """
    parts = build(config, make_env_fn)
    return {
        "parameters": parts.count_parameters(),
        "members": len(parts.seeds),
        "seeds": parts.seeds,
        "hypers": {
            name: [member.values[name] for member in sweep.members(config)]
            for name in sweep.member_lists(config)
        },
        "devices": len(parts.placement.devices),
        "replay_bytes": parts.replay_bytes(),
        "steps": config.steps,
        "frames": config.steps * config.env.action_repeat,
        "updates": updates_due(config, config.steps),
    }


def describe(parts: RunSetup, work: WorkDir) -> str:
    """A run's size in one line."""
    where = work.replay if parts.config.replay.storage == "disk" else "memory"
    size = describe_bytes(parts.replay_bytes())
    devices = len(parts.placement.devices)
    on = f" on {devices} devices" if devices > 1 else ""
    return f"{len(parts.seeds)} members{on}; replay grows to {size} in {where}"


def describe_bytes(count: int) -> str:
    """Bytes in the unit that reads best."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e3:.1f} kB"


def to_env_actions(action: np.ndarray, discrete: bool) -> np.ndarray:
    """Policy actions [M, E, A] on the host -> what environments take.

    A member whose policy is not finite, which only happens to one whose parameters were damaged
    from outside, goes on with zeros.
    """
    return action.argmax(-1).astype(np.int32) if discrete else np.nan_to_num(action)
