"""The interface of all vectors of environments, and the vector in this process.

Faults are part of what a call returns: environments fail in the normal course of a long run, and
the others have then been served all the same.
"""

import abc
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from dreamer_jax.envs.vector.slots import OBS, Arrays, EnvFn, EnvSlots, Layout, Spaces, layout

log = logging.getLogger(__name__)

Mask = Sequence[bool] | np.ndarray  # [N] bool
ActionSpace = spaces.Discrete | spaces.MultiDiscrete | spaces.Box


class Fault(NamedTuple):
    """An event that ended an environment, or a worker with all its environments."""

    rows: tuple[int, ...]
    text: str  # the traceback, or a description of the worker's end


@dataclass
class StepResult:
    """The results of one step of N environments."""

    obs: dict[str, np.ndarray]  # as `Vector.observations` returns them
    reward: np.ndarray  # [N] float32, raw
    is_last: np.ndarray  # [N] bool, terminal or truncated
    is_terminal: np.ndarray  # [N] bool
    failed: np.ndarray  # [N] bool, the episode is lost and the other fields are zero


@dataclass
class Replies:
    """The rows' replies to one command."""

    values: list[Any]  # [N], None where there is none
    errors: dict[int, str]  # row -> traceback
    lost: list[Fault]  # workers that hung or died

    @property
    def faults(self) -> list[Fault]:
        """All errors and losses, in row order."""
        return sorted([*self.lost, *(Fault((row,), text) for row, text in self.errors.items())])


def rows_of(faults: Iterable[Fault]) -> list[int]:
    """Return the rows of some faults, sorted."""
    return sorted(row for fault in faults for row in fault.rows)


class Vector(abc.ABC):
    """N adapted environments with equal spaces, stepped together and reset one by one.

    Every call serves all rows that it can and returns the faults of the others, in row order. A
    row that failed must be given a new environment with `replace`; its last good observation is
    kept. After any other error in the middle of a call, such as an interrupt, the rows are out of
    step with each other: the vector can only be closed, and further calls raise a ValueError.

    The environments are made by `adapt`, which checks actions, observations and rewards. Here
    they are only copied between an environment and its row of the arrays.
    """

    num_envs: int  # N
    observation_space: spaces.Dict  # one environment's, of Box entries
    action_space: ActionSpace  # one environment's, from 0 or in [-1, 1]
    _arrays: Arrays
    _unusable = ""  # the reason, if the vector is unusable

    def _set_up(self, spaces_of: Sequence[Spaces]) -> Layout:
        """Adopt the environments' spaces, and return the layout of the arrays they need."""
        self.num_envs = len(spaces_of)
        self.observation_space, self.action_space = spaces_of[0]
        boxes = self.observation_space
        if not isinstance(boxes, spaces.Dict) or {*map(type, boxes.values())} != {spaces.Box}:
            raise ValueError(f"the observation space must be a Dict of Box, not {boxes}: see adapt")
        for row, given in enumerate(spaces_of):
            self._check_spaces(row, given)
        return layout(boxes, self.action_space, self.num_envs)

    def reset(self, mask: Mask | None = None) -> list[Fault]:
        """Begin a new episode in the rows of a mask, or in all.

        Raises:
            ValueError: the mask is wrong, or a row failed before and was not replaced.
        """
        self._select(mask)
        faults = self._run("reset").faults
        self._fail(rows_of(faults))
        return faults

    def step(self, actions: Any, mask: Mask | None = None) -> tuple[StepResult, list[Fault]]:
        """Step some rows.

        Args:
            actions: integers [N] for a Discrete action space, [N, F] for a MultiDiscrete one, and
                floats [N, A] for a Box.
            mask: [N] bool, the rows to step; None for all. The result of the others is their last
                observation and zeros.

        Raises:
            ValueError: actions or mask have a wrong shape or dtype, or a row is at the end of its
                episode, was never reset, or failed before. No row was stepped.
        """
        mask = self._select(mask)
        closed = mask & ~self._arrays["is_open"]
        _refuse(closed, "are at the end of an episode: reset them first")
        self._put_actions(np.asarray(actions))
        faults = self._run("step").faults
        failed = self._fail(rows_of(faults))
        results = {
            name: np.where(mask & ~failed, self._arrays[name], False)
            for name in ("reward", "is_last", "is_terminal")
        }
        return StepResult(obs=self.observations(), failed=failed, **results), faults

    def observations(self) -> dict[str, np.ndarray]:
        """Return the last observation of every row, images and vectors as `adapt` describes them.

        Returns:
            Entries [N, ...], read-only views of memory that later calls overwrite.
        """
        self._check_usable()
        views = {key: self._arrays[OBS + key].view() for key in self.observation_space}
        for view in views.values():
            view.flags.writeable = False
        return views

    def replace(self, env_fns: Mapping[int, EnvFn]) -> list[Fault]:
        """Replace the environments of some rows by new ones, which must then be reset.

        Args:
            env_fns: functions that build the new environments, by row.

        Raises:
            ValueError: a row is out of range, or an environment has other spaces; that
                environment is not used, but all others are.
        """
        if not set(env_fns) <= set(range(self.num_envs)):
            raise ValueError(f"rows {sorted(env_fns)}; allowed: 0 to {self.num_envs - 1}")
        replies = self._run("replace", [env_fns.get(row) for row in range(self.num_envs)])
        self._fail([*env_fns, *rows_of(replies.lost)])
        expected = (self.observation_space, self.action_space)
        self._arrays["failed"][[given == expected for given in replies.values]] = False
        for row, given in enumerate(replies.values):
            if given is not None:
                self._check_spaces(row, given)
        return replies.faults

    def describe(self) -> tuple[dict[str, str], list[str], dict[str, str]]:
        """Return the first row's digests of code, wrappers with statistics, and readings."""
        return self._run("describe").values[0] or ({}, [], {})

    def get_states(self) -> tuple[list[bytes | None], list[Fault]]:
        """Return the state of every row, including its last observation, and lost workers.

        A state is None for an environment that has no exact one, that raised when it was asked for
        it, which is logged, or that has failed.
        """
        tried = self._run("try_states")
        self._fail(rows_of(tried.lost))
        replies = self._run("get_states")
        _warn("could not be saved", tried.errors | replies.errors)
        self._fail(rows_of(replies.lost))
        return replies.values, [*tried.lost, *replies.lost]

    def set_states(self, states: Sequence[bytes | None]) -> tuple[np.ndarray, list[Fault]]:
        """Resume from states that `get_states` returned in a vector of the same environments.

        Args:
            states: N entries; a row with None, or that has failed, stays as it is. They are
                unpickled: only restore what you have written.

        Returns:
            bool [N], the rows that were restored, and lost workers. A row whose state could not
            be restored, which is logged, has failed and must be replaced.
        """
        if len(states) != self.num_envs:
            raise ValueError(f"{len(states)} states for {self.num_envs} environments")
        replies = self._run("set_states", list(states))
        _warn("could not be restored", replies.errors)
        self._fail(rows_of(replies.faults))
        return np.array([value is True for value in replies.values]), replies.lost

    def close(self) -> None:
        """Close the environments; a second call does nothing."""
        self._unusable = "is closed"
        self._close()

    def row_mask(self, mask: Mask | None) -> np.ndarray:
        """Return a checked copy of a mask, all True for None."""
        mask = np.ones(self.num_envs, bool) if mask is None else np.array(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != bool:
            raise ValueError(
                f"mask must be bool [{self.num_envs}], not {mask.dtype} {list(mask.shape)}"
            )
        return mask

    def _select(self, mask: Mask | None) -> np.ndarray:
        """Choose the rows of the next command, and return them as bool [N]."""
        self._check_usable()
        mask = self.row_mask(mask)
        _refuse(mask & self._arrays["failed"], "failed: replace them first")
        self._arrays["mask"][:] = mask
        return mask

    def _put_actions(self, actions: np.ndarray) -> None:
        target = self._arrays["action"]
        # NumPy would broadcast the one and truncate the other without a word.
        castable = np.can_cast(actions.dtype, target.dtype, "same_kind")
        if actions.shape != target.shape or not castable:
            raise ValueError(
                f"actions must be {target.dtype} {list(target.shape)}, "
                f"not {actions.dtype} {list(actions.shape)}"
            )
        target[...] = actions

    def _check_spaces(self, row: int, given: Spaces) -> None:
        expected = (self.observation_space, self.action_space)
        if given != expected:
            raise ValueError(f"environment {row} has the spaces {given}, environment 0 {expected}")

    def _fail(self, rows: Sequence[int]) -> np.ndarray:
        """Mark rows as failed, and return them as bool [N]."""
        failed = np.zeros(self.num_envs, bool)
        failed[rows] = True
        self._arrays["failed"][failed] = True
        self._arrays["is_open"][failed] = False
        return failed

    def _check_usable(self) -> None:
        if self._unusable:
            raise ValueError(f"this vector {self._unusable}: build a new one")

    def _run(self, command: str, *per_row: list[Any]) -> Replies:
        self._check_usable()
        self._unusable = "failed or was interrupted in an earlier call"
        replies = self._call(command, *per_row)
        self._unusable = ""
        return replies

    @abc.abstractmethod
    def _close(self) -> None:
        """Release the environments, also if that has been done before."""

    @abc.abstractmethod
    def _call(self, command: str, *per_row: list[Any]) -> Replies:
        """Execute a command of `EnvSlots`, whose arguments have an entry per row."""


class LocalVector(Vector):
    """Environments in this process, the fastest where they are cheap.

    An environment that hangs blocks the program, and one that ends its process ends it.

    Args:
        env_fns: N functions that build an environment each. What one raises is raised here.

    Raises:
        ValueError: there are no environments, or their spaces differ.
    """

    def __init__(self, env_fns: Sequence[EnvFn]) -> None:
        if not env_fns:
            raise ValueError("a vector needs at least one environment")
        self._slots = EnvSlots(len(env_fns))
        try:
            shapes = self._set_up(self._slots.build(env_fns))
        except BaseException:
            self._slots.close()
            raise
        self._arrays = {name: np.zeros(*shape) for name, shape in shapes.items()}
        self._slots.attach(self._arrays)

    def _close(self) -> None:
        self._slots.close()

    def _call(self, command: str, *per_row: list[Any]) -> Replies:
        return Replies(*getattr(self._slots, command)(*per_row), lost=[])


def _refuse(rows: np.ndarray, why: str) -> None:
    if rows.any():
        raise ValueError(f"environments {np.flatnonzero(rows).tolist()} {why}")


def _warn(what: str, errors: Mapping[int, str]) -> None:
    if errors:
        text = next(iter(errors.values()))
        log.warning("the states of environments %s %s:\n%s", sorted(errors), what, text)
