"""Read agents from a work directory: `load` returns one for use in other code."""

import contextlib
import logging
from collections.abc import Mapping, Sequence
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
from dreamer_jax.run.identity import check_maker, check_spaces
from dreamer_jax.run.setup import MakeEnv, RunSetup, build, prepared
from dreamer_jax.run.workdir import WorkDir
from dreamer_jax.seeding import EVAL_KEY, EVAL_STREAM, env_seed, member_keys
from dreamer_jax.types import Params, PolicyCarry

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Saved:
    """Selected members of a run as of a checkpoint."""

    work: WorkDir
    config: ConfigDict  # of the whole run
    setup: RunSetup  # of a run that has only these members
    numbers: list[int]  # [K], of the members in the run
    arrays: Mapping  # as in the checkpoint, [K, ...]
    host: Mapping  # as in the checkpoint, its `members` [K]

    @property
    def params(self) -> Mapping[str, Params]:
        """Parameters by group, [K, ...]."""
        return self.arrays["state"].params

    @property
    def env_step(self) -> int:
        """The env step of the checkpoint."""
        return self.host["env_step"]

    @property
    def place(self) -> dict:
        """The `env_step` and the `update` of the checkpoint."""
        return {name: self.host[name] for name in ("env_step", "update")}


def read_saved(
    workdir: str | Path,
    numbers: Sequence[int] | None,
    make_env: MakeEnv | None,
    step: int | None = None,
    *,
    with_loop: bool = False,
) -> Saved:
    """Read the members with these numbers, or all, from a checkpoint; see `load` for the rest.

    The state of a loop on the device is left out, unless `with_loop`.
    """
    work = WorkDir(workdir)
    config = selected = work.read_config()
    prepared(config)  # before `one_device` starts JAX
    present = sweep.members(config)
    if numbers is not None:
        numbers = list(numbers)
        if not numbers or len(set(numbers) & set(range(len(present)))) < len(numbers):
            raise UsageError(
                f"members are {numbers}; allowed: one or more of those in {work.path}, each once: "
                + ", ".join(f"{number} ({member})" for number, member in enumerate(present))
            )
        selected = sweep.with_members(config, [present[number] for number in numbers])
    note = check_maker(work.environment, config.task, make_env)
    if note:
        log.warning("%s", note)
    setup = build(selected, make_env, one_device())
    check_spaces(work.environment, setup.identity)
    shapes = setup.saved_shapes(len(present), with_loop=with_loop)
    arrays, host = read_checkpoint(work, shapes, step)
    if numbers is None:
        return Saved(work, config, setup, list(range(len(present))), arrays, host)
    arrays = jax.tree.map(lambda x: x[np.array(numbers)], arrays)
    host = {**host, "members": [host["members"][number] for number in numbers]}
    return Saved(work, config, setup, numbers, arrays, host)


def read_checkpoint(work: WorkDir, shapes: Any, step: int | None = None) -> tuple[Any, dict]:
    """Read the arrays and the host data of a run's checkpoint, without changing any file.

    Args:
        work: the run's work directory.
        shapes: the run's `RunSetup.saved_shapes`.
        step: env step of the checkpoint; None for the newest intact one.
    """
    with contextlib.closing(Checkpoints(work.checkpoints)) as checkpoints:
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


class MemberAgent:
    """One trained member that acts in one environment and keeps its recurrent state.

    Attributes:
        member, seed: the member's number in the run, and its seed.
        env_step: env step of the checkpoint.
        action_space: a `Discrete` or a `MultiDiscrete` from 0, or a `Box` in [-1, 1].
    """

    def __init__(self, saved: Saved):
        self._saved, self._setup = saved, saved.setup
        self.member, self.seed = saved.numbers[0], saved.setup.seeds[0]
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
            obs: an observation of `make_env`'s environment, entries without a leading axis.
            sample: draw the action, without exploration, instead of taking the distribution's
                mode.

        Returns:
            The action's index, int32 [F] for a factored action space, or float32 [A] in [-1, 1].

        Raises:
            UsageError: an entry is missing or has another shape.
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
        action = to_env_actions(np.asarray(action), self._setup.action)[0, 0]
        return action if action.ndim else int(action)


def load(
    workdir: str | Path,
    member: int = 0,
    *,
    step: int | None = None,
    make_env: MakeEnv | None = None,
) -> MemberAgent:
    """Load one member's agent for use in other code.

    Args:
        workdir: the run's work directory.
        member: the member's number.
        step: env step of the checkpoint; None for the newest intact one.
        make_env: as given to `train`.

    Raises:
        FileNotFoundError: there is no run, or no checkpoint yet.
        UsageError: there is no such member or checkpoint.
    """
    return MemberAgent(read_saved(workdir, [member], make_env, step))
