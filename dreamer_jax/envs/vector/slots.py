"""The environments of one process, stepped one after another into the rows of given arrays."""

import logging
import pickle
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.envs.code import code_digests
from dreamer_jax.envs.vector.snapshot import Save, layers, restore
from dreamer_jax.envs.vector.trial import find_exact

log = logging.getLogger(__name__)

EnvFn = Callable[[], gymnasium.Env]
Arrays = dict[str, np.ndarray]
Layout = dict[str, tuple[tuple[int, ...], np.dtype]]  # shape and dtype of every array
Spaces = tuple[spaces.Dict, spaces.Space]  # observation and action space
Outcome = tuple[list[Any], dict[int, str]]  # a value per row, and the tracebacks of failed rows
# Attributes of gymnasium's wrappers that hold running means and variances.
STATISTICS = {"obs_rms", "return_rms"}
OBS = "obs/"  # prefix of the arrays that hold the observation's entries


def layout(observation_space: spaces.Dict, action_space: spaces.Space, num_envs: int) -> Layout:
    """Return the shapes and dtypes of the arrays through which `num_envs` rows are stepped."""
    shapes: Layout = {
        "mask": ((num_envs,), np.dtype(bool)),  # the rows to step or to reset
        "action": ((num_envs, *action_space.shape), np.dtype(action_space.dtype)),
        "reward": ((num_envs,), np.dtype(np.float32)),
        "is_last": ((num_envs,), np.dtype(bool)),
        "is_terminal": ((num_envs,), np.dtype(bool)),
        "is_open": ((num_envs,), np.dtype(bool)),  # in the middle of an episode: may be stepped
        "failed": ((num_envs,), np.dtype(bool)),  # must be replaced
    }
    for key, box in observation_space.items():
        shapes[OBS + key] = ((num_envs, *box.shape), np.dtype(box.dtype))
    return shapes


class EnvSlots:
    """The environments of one process, and their rows of the arrays.

    An error in one row does not affect the others. A command returns a value per row, None where
    there is none, and the traceback of every row that raised.
    """

    def __init__(self, count: int) -> None:
        self._env_fns: list[EnvFn | None] = [None] * count
        self._envs: list[gymnasium.Env | None] = [None] * count
        self._saves: dict[tuple[type, ...], Save | None] = {}  # exact ones, by types of layers
        self._arrays: Arrays = {}

    def build(self, env_fns: Sequence[EnvFn]) -> list[Spaces]:
        """Build the first environments and return their spaces; raise what one of them raises."""
        return [self._build(row, env_fn) for row, env_fn in enumerate(env_fns)]

    def attach(self, arrays: Arrays) -> None:
        """Use these arrays, [count, ...], in all later commands."""
        self._arrays = arrays

    def replace(self, env_fns: Sequence[EnvFn | None]) -> Outcome:
        """Build new environments for the rows that have a function, and return their spaces."""
        rows = [row for row, env_fn in enumerate(env_fns) if env_fn is not None]
        return self._each(rows, lambda row: self._build(row, env_fns[row]))

    def reset(self) -> Outcome:
        """Reset the rows in the array `mask`."""
        return self._each(np.flatnonzero(self._arrays["mask"]), self._reset)

    def step(self) -> Outcome:
        """Step the rows in the array `mask` with their `action`."""
        return self._each(np.flatnonzero(self._arrays["mask"]), self._step)

    def describe(self) -> Outcome:
        """Return every row's digests of classes, wrappers with statistics, and readings."""
        return self._each(range(len(self._envs)), self._describe)

    def try_states(self) -> Outcome:
        """Find out which rows have an exact state, once per type of environment."""
        return self._each(np.flatnonzero(~self._arrays["failed"]), self._try_state)

    def get_states(self) -> Outcome:
        """Return the state of every row with its last observation, None where none is exact."""
        return self._each(np.flatnonzero(~self._arrays["failed"]), self._get_state)

    def set_states(self, states: Sequence[bytes | None]) -> Outcome:
        """Resume from states of `get_states`, and return True for every row that does."""
        rows = [row for row in np.flatnonzero(~self._arrays["failed"]) if states[row] is not None]
        return self._each(rows, lambda row: self._set_state(row, states[row]))

    def close(self) -> None:
        """Close the environments and release the arrays."""
        while self._envs:
            self._discard(self._envs.pop())
        self._arrays = {}

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
            log.info("a discarded environment failed to close: %r", error)

    def _reset(self, row: int) -> None:
        obs, _ = self._envs[row].reset()
        self._write(row, obs)
        self._arrays["is_open"][row] = True

    def _step(self, row: int) -> None:
        action = self._arrays["action"][row]
        obs, reward, terminated, truncated, _ = self._envs[row].step(action)
        self._write(row, obs)
        self._arrays["reward"][row] = reward
        self._arrays["is_terminal"][row] = terminated
        self._arrays["is_last"][row] = terminated or truncated
        self._arrays["is_open"][row] = not (terminated or truncated)

    def _describe(self, row: int) -> tuple[dict[str, str], list[str], dict[str, str]]:
        env = self._envs[row]
        parts = layers(env)
        statistics = [type(part).__name__ for part in parts if STATISTICS & {*vars(part)}]
        readings = env.get_wrapper_attr("readings") if env.has_wrapper_attr("readings") else {}
        return code_digests(map(type, parts)), statistics, dict(readings)

    def _try_state(self, row: int) -> None:
        env = self._envs[row]
        if _types(env) not in self._saves:
            self._saves[_types(env)] = find_exact(env, self._env_fns[row])

    def _get_state(self, row: int) -> bytes | None:
        env = self._envs[row]
        save = self._saves.get(_types(env))
        if save is None:
            return None
        is_open = bool(self._arrays["is_open"][row])
        arrays = self._arrays.items()
        obs = {name[len(OBS) :]: a[row].copy() for name, a in arrays if name.startswith(OBS)}
        return pickle.dumps((save(env), obs, is_open))

    def _set_state(self, row: int, state: bytes) -> bool:
        data, obs, is_open = pickle.loads(state)
        old = self._envs[row]
        self._envs[row] = restore(old, data)
        if self._envs[row] is not old:
            self._discard(old)
        self._write(row, obs)
        self._arrays["is_open"][row] = is_open
        return True

    def _write(self, row: int, obs: Mapping[str, np.ndarray]) -> None:
        # `adapt` has checked all entries before it returned one, so a row that fails keeps its last
        # observation.
        for key, value in obs.items():
            self._arrays[OBS + key][row] = value


def _types(env: gymnasium.Env) -> tuple[type, ...]:
    return tuple(map(type, layers(env)))
