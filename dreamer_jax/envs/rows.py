"""Several environments stepped one after another, into the rows of given arrays."""

import pickle
from collections.abc import Callable, Mapping, Sequence

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.envs.snapshot import has_state, pickles_exactly, restore, snapshot

EnvFn = Callable[[], gymnasium.Env]
Arrays = dict[str, np.ndarray]
Layout = dict[str, tuple[tuple[int, ...], np.dtype]]  # shape and dtype of every array
Spaces = tuple[spaces.Dict, spaces.Space]  # observation and action space
OBS = "obs/"  # prefix of the arrays that hold the observation's entries


def layout(observation_space: spaces.Dict, action_space: spaces.Space, num_envs: int) -> Layout:
    """The arrays that `num_envs` environments are stepped with."""
    discrete = isinstance(action_space, spaces.Discrete)
    shapes: Layout = {
        "mask": ((num_envs,), np.dtype(bool)),  # the rows to reset
        "action": ((num_envs, *action_space.shape), np.dtype(np.int64 if discrete else np.float32)),
        "reward": ((num_envs,), np.dtype(np.float32)),
        "is_last": ((num_envs,), np.dtype(bool)),
        "is_terminal": ((num_envs,), np.dtype(bool)),
        "is_open": ((num_envs,), np.dtype(bool)),  # reset, and not at its end: may be stepped
    }
    for key, box in observation_space.items():
        shapes[OBS + key] = ((num_envs, *box.shape), np.dtype(box.dtype))
    return shapes


class Rows:
    """The environments of one process, and their rows of the arrays.

    Args:
        env_fns: builds the environments.
    """

    def __init__(self, env_fns: Sequence[EnvFn]) -> None:
        self._env_fns = env_fns
        self._envs: list[gymnasium.Env] = []
        self._exact: dict[type, bool] = {}  # whether environments of a type pickle exactly
        self._arrays: Arrays = {}

    def build(self) -> list[Spaces]:
        """Build the environments; their spaces."""
        for make_env in self._env_fns:
            self._envs.append(make_env())
        return [(env.observation_space, env.action_space) for env in self._envs]

    def attach(self, arrays: Arrays) -> None:
        """Use these arrays, [len(env_fns), ...], from now on."""
        self._arrays = arrays

    def reset(self) -> None:
        """Reset the rows in `mask`."""
        for row in np.flatnonzero(self._arrays["mask"]):
            obs, _ = self._envs[row].reset()
            self._write(row, obs)
            self._arrays["is_open"][row] = True

    def step(self) -> None:
        """Step every row with its `action`."""
        for row, env in enumerate(self._envs):
            action = self._arrays["action"][row]
            obs, reward, terminated, truncated, _ = env.step(action)
            self._write(row, obs)
            self._arrays["reward"][row] = reward
            self._arrays["is_terminal"][row] = terminated
            self._arrays["is_last"][row] = terminated or truncated
            self._arrays["is_open"][row] = not (terminated or truncated)

    def get_states(self) -> list[bytes | None]:
        """The state of every row with its last observation; None where there is no exact one."""
        return [
            pickle.dumps((snapshot(env), self._read(row), bool(self._arrays["is_open"][row])))
            if self._has_exact_state(row)
            else None
            for row, env in enumerate(self._envs)
        ]

    def set_states(self, states: Sequence[bytes | None]) -> list[bool]:
        """Go on from where `get_states` was called; which rows do. The others stay as they are."""
        for row, state in enumerate(states):
            if state is None:
                continue
            data, obs, is_open = pickle.loads(state)
            old = self._envs[row]
            self._envs[row] = restore(old, data)
            if self._envs[row] is not old:
                old.close()
            self._write(row, obs)
            self._arrays["is_open"][row] = is_open
        return [state is not None for state in states]

    def close(self) -> None:
        """Close the environments and let go of the arrays."""
        while self._envs:
            self._envs.pop().close()
        self._arrays = {}

    def _has_exact_state(self, row: int) -> bool:
        env = self._envs[row]
        if has_state(env):
            return True
        kind = type(env.unwrapped)
        if kind not in self._exact:
            self._exact[kind] = pickles_exactly(self._env_fns[row])
        return self._exact[kind]

    def _write(self, row: int, obs: Mapping[str, np.ndarray]) -> None:
        for key, value in obs.items():
            self._arrays[OBS + key][row] = value

    def _read(self, row: int) -> dict[str, np.ndarray]:
        return {
            name.removeprefix(OBS): array[row].copy()
            for name, array in self._arrays.items()
            if name.startswith(OBS)
        }
