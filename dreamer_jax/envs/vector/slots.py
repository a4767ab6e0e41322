"""Several environments stepped one after another, into the rows of given arrays."""

import logging
import pickle
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.envs.vector.snapshot import has_state, pickles_exactly, restore, snapshot

log = logging.getLogger(__name__)

EnvFn = Callable[[], gymnasium.Env]
Arrays = dict[str, np.ndarray]
Layout = dict[str, tuple[tuple[int, ...], np.dtype]]  # shape and dtype of every array
Spaces = tuple[spaces.Dict, spaces.Space]  # observation and action space
Outcome = tuple[list[Any], dict[int, str]]  # a value per row, and tracebacks of rows that failed
OBS = "obs/"  # prefix of the arrays that hold the observation's entries


def layout(observation_space: spaces.Dict, action_space: spaces.Space, num_envs: int) -> Layout:
    """The arrays that `num_envs` environments are stepped with."""
    discrete = isinstance(action_space, spaces.Discrete)
    shapes: Layout = {
        "mask": ((num_envs,), np.dtype(bool)),  # the rows to step or to reset
        "action": ((num_envs, *action_space.shape), np.dtype(np.int64 if discrete else np.float32)),
        "reward": ((num_envs,), np.dtype(np.float32)),
        "is_last": ((num_envs,), np.dtype(bool)),
        "is_terminal": ((num_envs,), np.dtype(bool)),
        "is_open": ((num_envs,), np.dtype(bool)),  # reset, and not at its end: may be stepped
        "failed": ((num_envs,), np.dtype(bool)),  # must be replaced
    }
    for key, box in observation_space.items():
        shapes[OBS + key] = ((num_envs, *box.shape), np.dtype(box.dtype))
    return shapes


class EnvSlots:
    """The environments of one process, and their rows of the arrays.

    What an environment raises ends no other row's turn. A command returns a value per row, None
    where there is none, and the traceback of every row that raised.

    Args:
        count: number of rows, which have no environments yet.
    """

    def __init__(self, count: int) -> None:
        self._env_fns: list[EnvFn | None] = [None] * count
        self._envs: list[gymnasium.Env | None] = [None] * count
        self._exact: dict[type, bool] = {}  # whether environments of a type pickle exactly
        self._arrays: Arrays = {}
        self._observations: list[dict[str, np.ndarray]] = []  # views, by row

    def build(self, env_fns: Sequence[EnvFn]) -> list[Spaces]:
        """Build the first environments; their spaces. Raises whatever one of them raises."""
        return [self._build(row, env_fn) for row, env_fn in enumerate(env_fns)]

    def attach(self, arrays: Arrays) -> None:
        """Use these arrays, [count, ...], from now on."""
        self._arrays = arrays
        self._observations = [
            {
                name.removeprefix(OBS): array[row, ...]
                for name, array in arrays.items()
                if name.startswith(OBS)
            }
            for row in range(len(self._envs))
        ]

    def replace(self, env_fns: Sequence[EnvFn | None]) -> Outcome:
        """Build new environments for the rows with a function; their spaces."""
        rows = [row for row, env_fn in enumerate(env_fns) if env_fn is not None]
        return self._each(rows, lambda row: self._build(row, env_fns[row]))

    def reset(self) -> Outcome:
        """Reset the rows in `mask`."""
        return self._each(np.flatnonzero(self._arrays["mask"]), self._reset)

    def step(self) -> Outcome:
        """Step the rows in `mask` with their `action`."""
        return self._each(np.flatnonzero(self._arrays["mask"]), self._step)

    def get_states(self) -> Outcome:
        """The state of every row with its last observation; None where there is no exact one."""
        return self._each(np.flatnonzero(~self._arrays["failed"]), self._get_state)

    def set_states(self, states: Sequence[bytes | None]) -> Outcome:
        """Go on from where `get_states` was called; True where a row does."""
        rows = [row for row in np.flatnonzero(~self._arrays["failed"]) if states[row] is not None]
        return self._each(rows, lambda row: self._set_state(row, states[row]))

    def close(self) -> None:
        """Close the environments and let go of the arrays."""
        while self._envs:
            self._discard(self._envs.pop())
        self._arrays, self._observations = {}, []

    def _each(self, rows: Iterable[int], act: Callable[[int], Any]) -> Outcome:
        values: list[Any] = [None] * len(self._envs)
        errors: dict[int, str] = {}
        for row in map(int, rows):
            try:
                values[row] = act(row)
            except Exception:  # whatever an environment raises
                errors[row] = traceback.format_exc()
        return values, errors

    def _build(self, row: int, env_fn: EnvFn) -> Spaces:
        old, self._envs[row] = self._envs[row], None
        self._discard(old)
        self._env_fns[row] = env_fn
        env = self._envs[row] = env_fn()
        return env.observation_space, env.action_space

    def _discard(self, env: gymnasium.Env | None) -> None:
        try:
            if env is not None:
                env.close()
        except Exception as error:
            log.info("an environment that is no longer used failed to close: %r", error)

    def _reset(self, row: int) -> None:
        obs, _ = self._envs[row].reset()
        self._write(row, obs)
        self._arrays["is_open"][row] = True

    def _step(self, row: int) -> None:
        action = self._arrays["action"][row]
        obs, reward, terminated, truncated, _ = self._envs[row].step(action)
        reward, is_terminal = float(reward), bool(terminated)
        is_last = is_terminal or bool(truncated)
        self._write(row, obs)
        self._arrays["reward"][row] = reward
        self._arrays["is_terminal"][row] = is_terminal
        self._arrays["is_last"][row] = is_last
        self._arrays["is_open"][row] = not is_last

    def _get_state(self, row: int) -> bytes | None:
        if not self._has_exact_state(row):
            return None
        is_open = bool(self._arrays["is_open"][row])
        obs = {key: view.copy() for key, view in self._observations[row].items()}
        return pickle.dumps((snapshot(self._envs[row]), obs, is_open))

    def _set_state(self, row: int, state: bytes) -> bool:
        data, obs, is_open = pickle.loads(state)
        old = self._envs[row]
        self._envs[row] = restore(old, data)
        if self._envs[row] is not old:
            self._discard(old)
        self._write(row, obs)
        self._arrays["is_open"][row] = is_open
        return True

    def _has_exact_state(self, row: int) -> bool:
        env = self._envs[row]
        if has_state(env):
            return True
        kind = type(env.unwrapped)
        if kind not in self._exact:
            self._exact[kind] = pickles_exactly(self._env_fns[row])
        return self._exact[kind]

    def _write(self, row: int, obs: Mapping[str, np.ndarray]) -> None:
        # Everything is checked before anything is written: a row that fails keeps what it had.
        targets = self._observations[row]
        if obs.keys() != targets.keys():
            raise ValueError(f"the observation has the keys {list(obs)}, not {list(targets)}")
        values = {key: np.asarray(obs[key], target.dtype) for key, target in targets.items()}
        for key, target in targets.items():
            if values[key].shape != target.shape:
                raise ValueError(
                    f"observation {key!r} has the shape {values[key].shape}, not {target.shape}"
                )
        for key, target in targets.items():
            target[...] = values[key]
