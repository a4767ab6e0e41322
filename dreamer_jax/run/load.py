"""Read agents from a work directory: `load` returns one for use in other code."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np
from ml_collections import ConfigDict

from dreamer_jax.agent.placement import one_device
from dreamer_jax.config import sweep
from dreamer_jax.errors import UsageError
from dreamer_jax.run.checkpoint import Checkpoints, DamagedCheckpoint
from dreamer_jax.run.driver import to_env_actions
from dreamer_jax.run.setup import MakeEnv, RunSetup, build
from dreamer_jax.run.workdir import WorkDir
from dreamer_jax.seeding import EVAL_KEY, EVAL_STREAM, env_seed, member_keys
from dreamer_jax.types import Params, PolicyCarry

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saved:
    """Members of a run as of a checkpoint, and the setup of a run that has only these."""

    work: WorkDir
    setup: RunSetup
    members: list[int]  # [M], their numbers in the run
    params: Mapping[str, Params]  # by group, [M, ...]
    env_step: int


def read_saved(
    workdir: str | Path, make_env: MakeEnv | None, *, member: int | None, step: int | None
) -> Saved:
    """Read one member, or all, from a checkpoint.

    Args:
        workdir: The run's work directory.
        make_env: As given to `train`.
        member: The member's number; None for all.
        step: Env step of the checkpoint; None for the newest intact one.

    Raises:
        FileNotFoundError: There is no run, or no checkpoint yet.
        UsageError: There is no such member or checkpoint.
    """
    work = WorkDir(workdir)
    config = work.read_config()
    present = sweep.members(config)
    if member is not None and not 0 <= member < len(present):
        raise UsageError(f"member is {member}; the run in {work.path} has: {name_members(config)}")
    if member is not None:
        config = sweep.with_members(config, [present[member]])
    members = list(range(len(present))) if member is None else [member]
    setup = build(config, make_env, one_device())
    arrays, host = read_checkpoint(work, setup.saved_shapes(len(present)), step)
    params = arrays["state"].params
    if member is not None:
        params = jax.tree.map(lambda x: x[np.array(members)], params)
    return Saved(work=work, setup=setup, members=members, params=params, env_step=host["env_step"])


def name_members(config: ConfigDict) -> str:
    """List the numbers of a config's members, with what identifies each."""
    return ", ".join(f"{n} ({member})" for n, member in enumerate(sweep.members(config)))


def read_checkpoint(work: WorkDir, shapes: Any, step: int | None = None) -> tuple[Any, dict]:
    """Read a checkpoint as the trainer saved it, without changing any file.

    Args:
        work: The run's work directory.
        shapes: The run's `RunSetup.saved_shapes`.
        step: As in `read_saved`.

    Returns:
        The arrays and the host data.

    Raises:
        FileNotFoundError: There is no checkpoint yet.
        UsageError: There is none of that step, or no intact one.
    """
    checkpoints = Checkpoints(work.checkpoints)
    try:
        steps = checkpoints.steps()
        if not steps:
            raise FileNotFoundError(f"no checkpoint in {work.checkpoints} yet")
        if step is not None and step not in steps:
            raise UsageError(f"step is {step}; {work.checkpoints} has: {steps}")
        for candidate in steps if step is None else [step]:
            try:
                return checkpoints.restore(candidate, shapes)
            except DamagedCheckpoint as error:
                log.warning("the checkpoint of env step %d is damaged: %s", candidate, error)
        raise UsageError(f"no checkpoint in {work.checkpoints} is intact")
    finally:
        checkpoints.close()


class MemberAgent:
    """One trained member that acts in one environment and keeps its recurrent state.

    Attributes:
        member: The member's number in the run.
        seed: The member's seed.
        env_step: Env step of the checkpoint.
        action_space: Of its actions, `Discrete` from 0 or a `Box` in [-1, 1].
    """

    def __init__(self, saved: Saved):
        self._saved, self._setup = saved, saved.setup
        self.member, self.seed = saved.members[0], saved.setup.seeds[0]
        self.env_step, self.action_space = saved.env_step, saved.setup.action_space
        keys = member_keys(self._setup.seeds, EVAL_KEY)
        self._carry: PolicyCarry = self._setup.fns.init_policy(keys, 1)
        self._is_first = True

    def make_env(self, seed: int = 0) -> gymnasium.Env:
        """Make an environment of the run's task whose observations fit `policy`."""
        return self._setup.make_env(env_seed(seed, EVAL_STREAM, 0))

    def reset(self) -> None:
        """Start a new episode with the next observation."""
        self._is_first = True

    def policy(self, obs: Mapping[str, np.ndarray], *, sample: bool = False) -> int | np.ndarray:
        """Update the recurrent state with an observation and choose an action.

        Args:
            obs: One observation from `make_env`'s environment, entries without a leading axis.
            sample: Draw the action, without exploration, instead of taking the distribution's
                mode.

        Returns:
            The action's index, or float32 [A] in [-1, 1].

        Raises:
            UsageError: An entry is missing or has another shape.
        """
        shapes = self._setup.agent.obs_shapes
        for key, (shape, _) in shapes.items():
            found = np.shape(obs[key]) if key in obs else "missing"
            if found != tuple(shape):
                raise UsageError(f"obs[{key!r}] is {found}; expected {tuple(shape)}")
        grid = {key: np.asarray(obs[key], dtype)[None, None] for key, (_, dtype) in shapes.items()}
        act = self._setup.fns.policy_step if sample else self._setup.fns.greedy_step
        is_first = np.full((1, 1), self._is_first)
        self._carry, action = act(self._saved.params, self._carry, grid, is_first)
        self._is_first = False
        discrete = self._setup.action.discrete
        action = to_env_actions(np.asarray(action), discrete)[0, 0]
        return int(action) if discrete else action


def load(
    workdir: str | Path,
    member: int = 0,
    *,
    step: int | None = None,
    make_env: MakeEnv | None = None,
) -> MemberAgent:
    """Load one member's agent for use in other code.

    Args:
        workdir: The run's work directory.
        member: The member's number.
        step: Env step of the checkpoint; None for the newest intact one.
        make_env: As given to `train`.

    Raises:
        FileNotFoundError: There is no run, or no checkpoint yet.
        UsageError: There is no such member or checkpoint.
    """
    return MemberAgent(read_saved(workdir, make_env, member=member, step=step))
