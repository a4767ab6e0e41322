"""What every vector of environments does, however it executes them."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces

from dreamer_jax.envs.rows import OBS, Arrays, Layout, Spaces, layout


@dataclass
class StepResult:
    """What N environments returned for one action each. The arrays are the caller's to keep."""

    obs: dict[str, np.ndarray]  # images [N, size, size, C] uint8, vectors [N, V] float32
    reward: np.ndarray  # [N] float32, raw
    is_last: np.ndarray  # [N] bool, terminal or truncated
    is_terminal: np.ndarray  # [N] bool


class Vector(abc.ABC):
    """N environments with equal spaces, stepped together and reset one by one.

    Returned arrays are copies: no later call writes into them. After a call that failed in an
    environment, or was interrupted, the rows are out of step with each other, and the vector can
    only be closed; further calls raise a ValueError.

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
        for index, other in enumerate(spaces_of):
            if other != spaces_of[0]:
                raise ValueError(
                    f"environment {index} has the spaces {other}, environment 0 {spaces_of[0]}"
                )
        return layout(boxes, self.action_space, self.num_envs)

    def reset(self, mask: Sequence[bool] | np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Begin a new episode in some rows; the others keep their last observation.

        Args:
            mask: [N] bool, the rows to reset; None for all.

        Returns:
            The observation of every row, [N, ...].
        """
        self._check_usable()
        mask = np.ones(self.num_envs, bool) if mask is None else np.asarray(mask)
        if mask.shape != (self.num_envs,) or mask.dtype != bool:
            raise ValueError(
                f"mask must be bool [{self.num_envs}], not {mask.dtype} {list(mask.shape)}"
            )
        self._arrays["mask"][:] = mask
        self._run("reset")
        return self.observations()

    def step(self, actions: Any) -> StepResult:
        """Step every row.

        Args:
            actions: integers [N] for a Discrete action space, float32 [N, A] for a Box.

        Raises:
            ValueError: wrong actions, a row that is at the end of its episode or was never reset,
                or an environment that broke its own spaces.
        """
        self._check_usable()
        if not self._arrays["is_open"].all():
            rows = np.flatnonzero(~self._arrays["is_open"]).tolist()
            raise ValueError(f"environments {rows} are at the end of an episode: reset them first")
        actions, target = np.asarray(actions), self._arrays["action"]
        castable = np.can_cast(actions.dtype, target.dtype, "same_kind")
        if actions.shape != target.shape or not castable:
            raise ValueError(
                f"actions must be {target.dtype} {list(target.shape)}, "
                f"not {actions.dtype} {list(actions.shape)}"
            )
        target[:] = actions
        self._run("step")
        flags = {name: self._arrays[name].copy() for name in ("reward", "is_last", "is_terminal")}
        return StepResult(obs=self.observations(), **flags)

    def observations(self) -> dict[str, np.ndarray]:
        """The last observation of every row, [N, ...]."""
        self._check_usable()
        return {key: self._arrays[OBS + key].copy() for key in self.observation_space}

    def get_states(self) -> list[bytes | None]:
        """The state of every row, its last observation included.

        Returns:
            N entries; None for an environment that has no exact state, which is logged.
        """
        return [state for states in self._run("get_states") for state in states]

    def set_states(self, states: Sequence[bytes | None]) -> np.ndarray:
        """Go on from where `get_states` was called, in a vector of the same environments.

        Args:
            states: N entries; a row with None stays as it is. They are unpickled: only restore
                what you have written.

        Returns:
            bool [N], the rows that were restored.
        """
        if len(states) != self.num_envs:
            raise ValueError(f"{len(states)} states for {self.num_envs} environments")
        replies = self._run("set_states", states)
        return np.array([restored for reply in replies for restored in reply])

    def close(self) -> None:
        """Close the environments; a second call does nothing."""
        self._unusable = "is closed"
        self._close()

    def _check_usable(self) -> None:
        if self._unusable:
            raise ValueError(f"this vector {self._unusable}: build a new one")

    def _run(self, command: str, per_row: Sequence[Any] | None = None) -> list[Any]:
        self._check_usable()
        self._unusable = "failed or was interrupted in an earlier call"
        replies = self._call(command, per_row)
        self._unusable = ""
        return replies

    @abc.abstractmethod
    def _close(self) -> None:
        """Let go of the environments, if they are still there."""

    @abc.abstractmethod
    def _call(self, command: str, per_row: Sequence[Any] | None = None) -> list[Any]:
        """Let all `Rows` execute one of their methods; their replies in the order of the rows."""
