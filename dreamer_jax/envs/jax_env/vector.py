"""Environments that are JAX programs behind the interfaces of the host loop."""

import base64
import pickle
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.envs.jax_env.adapt import AdaptedEnv
from dreamer_jax.envs.jax_env.rows import EnvRows, init_rows, reset_rows, step_rows
from dreamer_jax.envs.vector.vector import Mask, StepResult

RowSeed = Callable[[int, int], int]  # (row, generation) -> seed; the generation is always 0


class JaxVector:
    """N environments stepped by one compiled call, with the interface of `FaultTolerantVector`.

    They run in this process, on JAX's default device, and cannot fail one by one.

    Args:
        env: the environment.
        row_seed: gives the seed of every row.
        num_envs: N.
    """

    def __init__(self, env: AdaptedEnv, row_seed: RowSeed, num_envs: int):
        self.num_envs = num_envs
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self._init = jax.jit(partial(init_rows, env))
        self._reset = jax.jit(partial(reset_rows, env))
        self._step = jax.jit(partial(step_rows, env))
        self.renew(row_seed)

    def renew(self, row_seed: RowSeed) -> None:
        """Replace every environment by one of another seed; they must be reset."""
        seeds = np.array([row_seed(row, 0) for row in range(self.num_envs)], np.uint32)
        self._rows: EnvRows = self._init(seeds)
        self._open = np.zeros(self.num_envs, bool)

    def reset(self, mask: Mask | None = None) -> dict[str, np.ndarray]:
        """Begin a new episode in the rows of a mask, or in all, and return all observations."""
        mask = self._mask(mask)
        self._rows = self._reset(self._rows, mask)
        self._open |= mask
        return self.observations()

    def step(self, actions: np.ndarray, mask: Mask | None = None) -> StepResult:
        """Step the rows of a mask, or all, which must be in the middle of an episode."""
        mask = self._mask(mask)
        if (mask & ~self._open).any():
            closed = np.flatnonzero(mask & ~self._open).tolist()
            raise ValueError(f"environments {closed} are at the end of an episode: reset them")
        self._rows, *results = self._step(self._rows, actions, mask)
        obs = self.observations()
        reward, is_last, is_terminal = (np.asarray(x) for x in results)
        self._open &= ~is_last
        return StepResult(obs, reward, is_last, is_terminal, np.zeros(self.num_envs, bool))

    def observations(self) -> dict[str, np.ndarray]:
        """Return the last observation of every row, entries [N, ...]."""
        return {key: np.asarray(value) for key, value in self._rows.obs.items()}

    def state(self) -> list[dict]:
        """Return N JSON records for `restore`, one per row, as `FaultTolerantVector` does."""
        columns = [np.asarray(x) for x in jax.tree.leaves(_plain(self._rows))]
        return [
            {"environment": base64.b64encode(pickle.dumps(row)).decode(), "generation": 0}
            for row in zip(*[list(column) for column in [*columns, self._open]], strict=True)
        ]

    def restore(self, rows: Sequence[Mapping]) -> np.ndarray:
        """Resume from the records that `state` returned.

        Returns:
            bool [N], the rows that were restored: all that have a state of this environment.
        """
        leaves, structure = jax.tree.flatten(_plain(self._rows))
        columns = [np.array(x) for x in leaves] + [self._open]
        restored = np.zeros(self.num_envs, bool)
        for row, record in enumerate(rows):
            if record["environment"] is None:
                continue
            values = pickle.loads(base64.b64decode(record["environment"]))
            if [np.shape(v) for v in values] == [column.shape[1:] for column in columns]:
                restored[row] = True
                for column, value in zip(columns, values, strict=True):
                    column[row] = value
        *leaves, self._open = columns
        self._rows = _typed(jax.tree.unflatten(structure, map(jnp.asarray, leaves)), self._rows)
        return restored

    def close(self) -> None:
        """Release the environments; a second call does nothing."""
        self._rows = None

    def _mask(self, mask: Mask | None) -> np.ndarray:
        return np.ones(self.num_envs, bool) if mask is None else np.array(mask, bool)


def _is_key(x: Any) -> bool:
    return jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key)


def _plain(rows: EnvRows) -> EnvRows:
    """Return rows with random keys as integers."""
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, rows)


def _typed(plain: EnvRows, like: EnvRows) -> EnvRows:
    """Return rows with the integers of random keys as keys."""

    def typed(x: Any, y: Any) -> Any:
        return jax.random.wrap_key_data(x, impl=jax.random.key_impl(y)) if _is_key(y) else x

    return jax.tree.map(typed, plain, like)


class SingleEnv(gymnasium.Env):
    """One environment that is a JAX program, as a gymnasium environment."""

    def __init__(self, env: AdaptedEnv, seed: int):
        self.observation_space, self.action_space = env.observation_space, env.action_space
        self._vector = JaxVector(env, lambda row, generation: seed, 1)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[dict, dict]:
        super().reset(seed=seed)
        if seed is not None:
            self._vector.renew(lambda row, generation: seed)
        return _first(self._vector.reset()), {}

    def step(self, action: Any) -> tuple[dict, float, bool, bool, dict]:
        result = self._vector.step(np.asarray(action)[None])
        is_last, terminated = bool(result.is_last[0]), bool(result.is_terminal[0])
        return (
            _first(result.obs),
            float(result.reward[0]),
            terminated,
            is_last and not terminated,
            {},
        )


def _first(obs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {key: value[0] for key, value in obs.items()}
