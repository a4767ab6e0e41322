"""What every vector of environments does, however it executes them."""

import abc
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from dreamer_jax.envs.vector.results import EnvFault, Fault, Replies, StepResult
from dreamer_jax.envs.vector.slots import OBS, Arrays, EnvFn, Layout, Spaces, layout
from dreamer_jax.envs.wrappers import TOLERANCE

log = logging.getLogger(__name__)


class Vector(abc.ABC):
    """N environments with equal spaces, stepped together and reset one by one.

    Returned arrays are copies: no later call writes into them. Where environments fail, a call
    serves all others and then raises an `EnvFault`; the vector can be used on, once the failed
    rows were given new environments with `replace`. After any other error in the middle of a call,
    such as an interrupt, the rows are out of step with each other, and the vector can only be
    closed; further calls raise a ValueError.

    Attributes:
        num_envs: N.
        observation_space: one environment's, a `spaces.Dict` of Box.
        action_space: one environment's, `spaces.Discrete` from 0 or a `spaces.Box` in [-1, 1].
    """

    num_envs: int
    observation_space: spaces.Dict
    action_space: spaces.Discrete | spaces.Box
    _arrays: Arrays
    _unusable = ""  # why, where it is so

    def _set_up(self, spaces_of: Sequence[Spaces]) -> Layout:
        """Take over the environments' spaces; the arrays that they need."""
        self.num_envs = len(spaces_of)
        self.observation_space, self.action_space = spaces_of[0]
        boxes = self.observation_space
        if not isinstance(boxes, spaces.Dict) or not all(
            isinstance(box, spaces.Box) for box in boxes.values()
        ):
            raise ValueError(f"the observation space must be a Dict of Box, not {boxes}: see adapt")
        for row, other in enumerate(spaces_of):
            self._check_spaces(row, other)
        return layout(boxes, self.action_space, self.num_envs)

    def reset(self, mask: Sequence[bool] | np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Begin a new episode in some rows; the others keep their last observation.

        Args:
            mask: [N] bool, the rows to reset; None for all.

        Returns:
            The observation of every row, [N, ...].

        Raises:
            EnvFault: an environment failed; its `result` is the observations.
            ValueError: a wrong mask, or a row that failed before and was not replaced.
        """
        self._check_usable()
        mask = self.row_mask(mask)
        self._refuse(mask & self._arrays["failed"], "failed: replace them first")
        self._arrays["mask"][:] = mask
        faults = self._run("reset").faults
        self._fail(_rows_of(faults))
        return _or_raise(self.observations(), faults)

    def step(self, actions: Any, mask: Sequence[bool] | np.ndarray | None = None) -> StepResult:
        """Step some rows.

        Args:
            actions: integers [N] for a Discrete action space, float32 [N, A] for a Box.
            mask: [N] bool, the rows to step; None for all. Of the others, the result holds the
                last observation and zeros.

        Raises:
            EnvFault: an environment failed or broke its own spaces; its `result` is the
                StepResult of all.
            ValueError: wrong actions or mask, or a row that is at the end of its episode, was
                never reset, or failed before. No row was stepped.
        """
        self._check_usable()
        mask = self.row_mask(mask)
        self._refuse(mask & self._arrays["failed"], "failed: replace them first")
        closed = mask & ~self._arrays["is_open"]
        self._refuse(closed, "are at the end of an episode: reset them first")
        self._arrays["action"][:] = self._checked(actions, mask)
        self._arrays["mask"][:] = mask
        faults = self._run("step").faults
        failed = self._fail(_rows_of(faults))
        flags = {
            name: np.where(mask & ~failed, self._arrays[name], False)
            for name in ("reward", "is_last", "is_terminal")
        }
        return _or_raise(StepResult(obs=self.observations(), failed=failed, **flags), faults)

    def observations(self) -> dict[str, np.ndarray]:
        """The last observation of every row, [N, ...]."""
        self._check_usable()
        return {key: self._arrays[OBS + key].copy() for key in self.observation_space}

    def replace(self, env_fns: Mapping[int, EnvFn]) -> None:
        """Close the environments of some rows and build others, which must be reset then.

        Args:
            env_fns: row -> function that builds the new environment.

        Raises:
            EnvFault: an environment failed while it was built; its `result` is None. All others
                were built.
            ValueError: no such row, or an environment with other spaces, which is not used.
        """
        if not set(env_fns) <= set(range(self.num_envs)):
            raise ValueError(f"rows {sorted(env_fns)}; allowed: 0 to {self.num_envs - 1}")
        replies = self._run("replace", [env_fns.get(row) for row in range(self.num_envs)])
        self._fail([*env_fns, *_rows_of(replies.lost)])
        own = (self.observation_space, self.action_space)
        fits = [spaces_of_row == own for spaces_of_row in replies.values]
        self._arrays["failed"][fits] = False
        for row, spaces_of_row in enumerate(replies.values):
            if spaces_of_row is not None:
                self._check_spaces(row, spaces_of_row)
        _or_raise(None, replies.faults)

    def get_states(self) -> list[bytes | None]:
        """The state of every row, its last observation included.

        Returns:
            N entries; None for an environment that has no exact state or raised when asked for
            it, which is logged, and for one that has failed.

        Raises:
            EnvFault: a worker failed; its `result` is the states.
        """
        replies = self._run("get_states")
        _warn("could not be saved", replies.errors)
        self._fail(_rows_of(replies.lost))
        return _or_raise(replies.values, replies.lost)

    def set_states(self, states: Sequence[bytes | None]) -> np.ndarray:
        """Go on from where `get_states` was called, in a vector of the same environments.

        Args:
            states: N entries; a row with None, or that has failed, stays as it is. They are
                unpickled: only restore what you have written.

        Returns:
            bool [N], the rows that were restored. Where a state was given but could not be
            restored, which is logged, the row has failed and must be replaced.

        Raises:
            EnvFault: a worker failed; its `result` is the rows that were restored.
        """
        if len(states) != self.num_envs:
            raise ValueError(f"{len(states)} states for {self.num_envs} environments")
        replies = self._run("set_states", list(states))
        _warn("could not be restored", replies.errors)
        self._fail(_rows_of(replies.faults))
        return _or_raise(np.array([value is True for value in replies.values]), replies.lost)

    def close(self) -> None:
        """Close the environments; a second call does nothing."""
        self._unusable = "is closed"
        self._close()

    def row_mask(self, mask: Sequence[bool] | np.ndarray | None) -> np.ndarray:
        """A bool [N] of the caller's rows, all for None; ValueError for anything else."""
        mask = np.ones(self.num_envs, bool) if mask is None else np.array(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != bool:
            raise ValueError(
                f"mask must be bool [{self.num_envs}], not {mask.dtype} {list(mask.shape)}"
            )
        return mask

    def _checked(self, actions: Any, mask: np.ndarray) -> np.ndarray:
        actions, target = np.asarray(actions), self._arrays["action"]
        castable = np.can_cast(actions.dtype, target.dtype, "same_kind")
        if actions.shape != target.shape or not castable:
            raise ValueError(
                f"actions must be {target.dtype} {list(target.shape)}, "
                f"not {actions.dtype} {list(actions.shape)}"
            )
        if isinstance(self.action_space, spaces.Discrete):
            allowed = f"an integer from 0 to {self.action_space.n - 1}"
            fits = (actions >= 0) & (actions < self.action_space.n)
        else:
            allowed = f"a vector of {actions[0].size} numbers in [-1, 1]"
            fits = (np.abs(actions) <= 1.0 + TOLERANCE).reshape(len(actions), -1).all(axis=1)
        for row in np.flatnonzero(mask & ~fits):
            raise ValueError(f"environment {row}: action {actions[row]} is not {allowed}")
        return actions

    def _check_spaces(self, row: int, given: Spaces) -> None:
        own = (self.observation_space, self.action_space)
        if given != own:
            raise ValueError(f"environment {row} has the spaces {given}, environment 0 {own}")

    def _refuse(self, rows: np.ndarray, why: str) -> None:
        if rows.any():
            raise ValueError(f"environments {np.flatnonzero(rows).tolist()} {why}")

    def _fail(self, rows: Iterable[int]) -> np.ndarray:
        """Mark rows as failed; they, as bool [N]."""
        failed = np.zeros(self.num_envs, bool)
        failed[list(rows)] = True
        self._arrays["failed"][failed] = True
        self._arrays["is_open"][failed] = False
        return failed

    def _check_usable(self) -> None:
        if self._unusable:
            raise ValueError(f"this vector {self._unusable}: build a new one")

    def _run(self, command: str, per_row: list[Any] | None = None) -> Replies:
        self._check_usable()
        self._unusable = "failed or was interrupted in an earlier call"
        replies = self._call(command, per_row)
        self._unusable = ""
        return replies

    @abc.abstractmethod
    def _close(self) -> None:
        """Let go of the environments, if they are still there."""

    @abc.abstractmethod
    def _call(self, command: str, per_row: list[Any] | None = None) -> Replies:
        """Let all `EnvSlots` execute one of their commands, on their part of `per_row`."""


def _rows_of(faults: Iterable[Fault]) -> list[int]:
    return [row for fault in faults for row in fault.rows]


def _or_raise(result: Any, faults: Sequence[Fault]) -> Any:
    if faults:
        raise EnvFault(faults, result)
    return result


def _warn(what: str, errors: Mapping[int, str]) -> None:
    if errors:
        text = next(iter(errors.values()))
        log.warning("the states of environments %s %s:\n%s", sorted(errors), what, text)
