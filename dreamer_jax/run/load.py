"""Reading agents out of a work directory: `load` one for use elsewhere, `evaluate` them."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import jax
import numpy as np

from dreamer_jax.agent.placement import one_device
from dreamer_jax.config import sweep
from dreamer_jax.errors import UsageError
from dreamer_jax.run.checkpoint import Checkpoints, DamagedCheckpoint
from dreamer_jax.run.setup import MakeEnv, RunSetup, build, to_env_actions
from dreamer_jax.run.workdir import WorkDir
from dreamer_jax.seeding import EVAL_KEY, EVAL_STREAM, env_seed, member_keys
from dreamer_jax.types import Params, PolicyCarry

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saved:
    """Members of a run as they were at a checkpoint."""

    work: WorkDir
    parts: RunSetup
    members: list[int]  # [M], their numbers in the run
    params: Mapping[str, Params]  # by group, [M, ...]
    env_step: int


def read_saved(
    workdir: str | Path, make_env: MakeEnv | None, *, member: int | None, step: int | None
) -> Saved:
    """Read one member, or all, from a checkpoint.

    Args:
        member: its number, None for all; step: env step of the checkpoint, None for the newest
            that is whole.

    Raises:
        FileNotFoundError: there is no run, or no checkpoint yet.
        UsageError: there is no such member or checkpoint.
    """
    work = WorkDir(workdir)
    config = work.read_config()
    there = sweep.members(config)
    if member is not None and not 0 <= member < len(there):
        choices = ", ".join(f"{number} ({one})" for number, one in enumerate(there))
        raise UsageError(f"member is {member}; the run in {work.path} has: {choices}")
    parts = build(config, make_env, one_device())
    arrays, host = read_checkpoint(work, parts, step)
    params = arrays["state"].params
    members = list(range(len(there))) if member is None else [member]
    if member is not None:
        parts = build(sweep.with_members(config, [there[member]]), make_env, one_device())
        params = jax.tree.map(lambda x: x[np.array(members)], params)
    return Saved(work=work, parts=parts, members=members, params=params, env_step=host["env_step"])


def read_checkpoint(work: WorkDir, parts: RunSetup, step: int | None = None) -> tuple[Any, dict]:
    """Arrays and host data of a checkpoint, as the trainer saves them; moves nothing.

    Args:
        parts: of the run's config; step: as in `read_saved`.

    Raises:
        FileNotFoundError: there is no checkpoint yet.
        UsageError: there is none of that step, or none that is whole.
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
                return checkpoints.restore(candidate, parts.saved_shapes())
            except DamagedCheckpoint as error:
                log.warning("the checkpoint of env step %d is damaged: %s", candidate, error)
        raise UsageError(f"no checkpoint in {work.checkpoints} is whole")
    finally:
        checkpoints.close()


class MemberAgent:
    """One trained member that acts in one environment, with its recurrent state in its keeping.

    Attributes:
        member, seed, env_step: which member, and when it was saved.
        action_space: of its actions, `Discrete` from 0 or a `Box` in [-1, 1].
    """

    def __init__(self, saved: Saved):
        self._saved, self._parts = saved, saved.parts
        self.member, self.seed = saved.members[0], saved.parts.seeds[0]
        self.env_step, self.action_space = saved.env_step, saved.parts.action_space
        keys = member_keys(self._parts.seeds, EVAL_KEY)
        self._carry: PolicyCarry = self._parts.fns.init_policy(keys, 1)
        self._is_first = True

    def make_env(self, seed: int = 0) -> gymnasium.Env:
        """An environment of the run's task, adapted as in training: `policy` fits it."""
        return self._parts.make_env(env_seed(seed, EVAL_STREAM, 0))

    def reset(self) -> None:
        """The next observation begins an episode."""
        self._is_first = True

    def policy(self, obs: Mapping[str, np.ndarray], *, sample: bool = False) -> int | np.ndarray:
        """Choose an action, and remember what was seen.

        Args:
            obs: one observation of `make_env`'s environment, entries without a leading axis.
            sample: draw the action, without exploration, instead of the distribution's mode.

        Returns:
            The action's number, or float32 [A] in [-1, 1].

        Raises:
            UsageError: an entry is missing, or of another shape.
        """
        shapes = self._parts.agent.obs_shapes
        for key, (shape, _) in shapes.items():
            found = np.shape(obs[key]) if key in obs else "missing"
            if found != tuple(shape):
                raise UsageError(f"obs[{key!r}] is {found}; expected {tuple(shape)}")
        grid = {key: np.asarray(obs[key], dtype)[None, None] for key, (_, dtype) in shapes.items()}
        act = self._parts.fns.policy_step if sample else self._parts.fns.greedy_step
        is_first = np.full((1, 1), self._is_first)
        self._carry, action = act(self._saved.params, self._carry, grid, is_first)
        self._is_first = False
        discrete = self._parts.action.discrete
        action = to_env_actions(np.asarray(action), discrete)[0, 0]
        return int(action) if discrete else action


def load(
    workdir: str | Path,
    member: int = 0,
    *,
    step: int | None = None,
    make_env: MakeEnv | None = None,
) -> MemberAgent:
    """One member's agent, for use in other code.

    Args:
        workdir: of the run; member: its number; step: env step of the checkpoint, None for the
            newest; make_env: as given to `train`.

    Raises:
        FileNotFoundError: there is no run, or no checkpoint yet.
        UsageError: there is no such member or checkpoint.
    """
    return MemberAgent(read_saved(workdir, make_env, member=member, step=step))
