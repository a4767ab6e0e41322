"""The environment side of a run: step M*E environments and record their transitions.

One step: environments whose episode ended are reset and their first observation is recorded; the
policy acts in all; every environment steps and its transition is recorded. So every member makes
E decisions per step, whatever the lengths of its episodes.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from dreamer_jax.envs.jax_env import JaxVector
from dreamer_jax.envs.vector import FaultTolerantVector
from dreamer_jax.replay.replay import Replay
from dreamer_jax.seeding import action_generator
from dreamer_jax.types import ActionSpec


class Driver:
    """Steps the environments of M members, N = M*E rows, member-major.

    Args:
        vector: the N environments.
        replay: receives every observation and transition.
        seeds: one per member, [M].
        obs_keys: the observation entries that the agent uses and the replay keeps.
    """

    def __init__(
        self,
        vector: FaultTolerantVector | JaxVector,
        replay: Replay,
        seeds: Sequence[int],
        obs_keys: Sequence[str],
    ):
        self._vector, self._replay, self._seeds, self._keys = vector, replay, seeds, obs_keys
        self._action = ActionSpec.of(vector.action_space)
        self._shape = (len(seeds), vector.num_envs // len(seeds))  # [M, E]
        self._is_first = np.ones(vector.num_envs, bool)
        self._returns = np.zeros(vector.num_envs)
        self._lengths = np.zeros(vector.num_envs, np.int64)
        self.stats = EpisodeStats(len(seeds))

    def reset_finished(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Reset the environments whose episode ended, and record their first observations.

        Returns:
            The observations to act on, entries [M, E, ...], and is_first [M, E] bool.
        """
        first = self._is_first.copy()
        obs = self._vector.reset(first) if first.any() else self._vector.observations()
        obs = self._grid(obs)
        if first.any():
            self._returns[first], self._lengths[first] = 0, 0
            zeros, no_action = np.zeros(len(first), bool), self._action.none(self._shape)
            self._record(obs, no_action, zeros, first, zeros, zeros, mask=first)
        # On a CPU, JAX may read NumPy arrays in place while a program runs, and where devices share
        # a member, reading back the actions waits for one device alone. `step` overwrites `obs`.
        return {key: value.copy() for key, value in obs.items()}, first.reshape(self._shape)

    def step(self, actions: np.ndarray) -> np.ndarray:
        """Step every environment and record the transitions.

        Args:
            actions: [M, E] indices, [M, E, F] of factors, or [M, E, A] in [-1, 1].

        Returns:
            [M, E] bool, True where an environment failed: its step did not happen, a new episode
            begins, and the caller must close the open one in the replay.
        """
        result = self._vector.step(actions.reshape(-1, *actions.shape[2:]))
        obs, is_first = self._grid(result.obs), np.zeros_like(self._is_first)
        flags = (is_first, result.is_last, result.is_terminal)
        self._record(obs, actions, result.reward, *flags, mask=~result.failed)
        self._returns += result.reward
        self._lengths += 1
        for row in np.flatnonzero(result.is_last):
            member = int(row) // self._shape[1]
            self.stats.add(member, float(self._returns[row]), int(self._lengths[row]))
        self._is_first = result.is_last | result.failed
        return result.failed.reshape(self._shape)

    def random_actions(self, env_step: int) -> np.ndarray:
        """Draw uniform actions, a function of each member's seed and `env_step` alone."""
        rngs = [action_generator(seed, env_step) for seed in self._seeds]
        return np.stack([self._action.random(rng, self._shape[1]) for rng in rngs])

    def state(self) -> list[dict]:
        """Return M JSON records for `restore`, including the environments' states.

        Environments may fail when asked for their states, so call this before the `state` of
        anything that counts faults.
        """
        rows, (members, count) = self._vector.state(), self._shape
        columns = {
            "is_first": self._is_first.reshape(self._shape).tolist(),
            "returns": self._returns.reshape(self._shape).tolist(),
            "lengths": self._lengths.reshape(self._shape).tolist(),
            "episodes": self.stats.state(),
            "rows": [rows[m * count : (m + 1) * count] for m in range(members)],
        }
        records = zip(*columns.values(), strict=True)
        return [dict(zip(columns, record, strict=True)) for record in records]

    def restore(self, records: Sequence[Mapping]) -> np.ndarray:
        """Return to a `state()`.

        Returns:
            [M, E] bool, True where the environment was restored too. The others begin a new
            episode, and the caller must close their open ones in the replay.
        """
        restored = self._vector.restore([row for record in records for row in record["rows"]])
        self._is_first = np.concatenate([r["is_first"] for r in records]) | ~restored
        self._returns = np.concatenate([r["returns"] for r in records])
        self._lengths = np.concatenate([r["lengths"] for r in records])
        self.stats.restore([record["episodes"] for record in records])
        return restored.reshape(self._shape)

    def _record(self, obs, action, reward, is_first, is_last, is_terminal, *, mask) -> None:
        rows = {"reward": reward.astype(np.float32), "is_first": is_first}
        rows |= {"is_last": is_last, "is_terminal": is_terminal}
        step = {f"obs/{key}": entry for key, entry in obs.items()} | {"action": action}
        step |= {name: values.reshape(self._shape) for name, values in rows.items()}
        self._replay.add(step, mask.reshape(self._shape))

    def _grid(self, obs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {key: obs[key].reshape(*self._shape, *obs[key].shape[1:]) for key in self._keys}


class EpisodeStats:
    """Undiscounted returns and lengths of each member's episodes that finished since `pop`."""

    def __init__(self, num_members: int):
        self._episodes: list[list[list[float]]] = [[] for _ in range(num_members)]

    def add(self, member: int, ret: float, length: int) -> None:
        """Count one finished episode of `length` agent steps."""
        self._episodes[member].append([float(ret), int(length)])

    def pop(self) -> list[dict[str, float | int]]:
        """Summarize the counted episodes, and start counting again.

        Returns:
            Per member: train_return (mean), train_return_min, train_return_max, train_length
            (mean) and train_episodes; an empty dict where no episode has finished.
        """
        popped = [_summary(episodes) for episodes in self._episodes]
        self._episodes = [[] for _ in self._episodes]
        return popped

    def state(self) -> list[list[list[float]]]:
        """Return per member the [return, length] of each episode, as JSON data."""
        return [list(episodes) for episodes in self._episodes]

    def restore(self, state: Sequence[Sequence[Sequence[float]]]) -> None:
        """Return to a `state()`."""
        self._episodes = [list(episodes) for episodes in state]


def _summary(episodes: Sequence[Sequence[float]]) -> dict[str, float | int]:
    if not episodes:
        return {}
    returns, lengths = zip(*episodes, strict=True)
    return {
        "train_return": sum(returns) / len(returns),
        "train_return_min": min(returns),
        "train_return_max": max(returns),
        "train_length": sum(lengths) / len(lengths),
        "train_episodes": len(lengths),
    }


def without_env_states(record: Mapping) -> dict:
    """Return a member's record of `Driver.state` without the states of its environments."""
    rows = [{**row, "environment": None} for row in record["rows"]]
    return {**record, "rows": rows}


def to_env_actions(action: np.ndarray, spec: ActionSpec) -> np.ndarray:
    """Convert policy actions [M, E, A] to what environments take, [M, E, *spec.shape].

    The actions are non-finite only for a member whose parameters were damaged from outside; its
    environments receive zeros.
    """
    if not spec.discrete:
        return np.nan_to_num(action)
    if not spec.factors:
        return action.argmax(-1).astype(np.int32)
    onehots = np.split(action, np.cumsum(spec.factors)[:-1], -1)
    return np.stack([onehot.argmax(-1) for onehot in onehots], -1).astype(np.int32)


def replay_spec(obs_shapes: Mapping, action: ActionSpec) -> dict:
    """Return the keys, shapes and dtypes of one replay record."""
    flags = dict.fromkeys(("is_first", "is_last", "is_terminal"), ((), "bool"))
    steps = {"action": (action.shape, action.dtype), "reward": ((), "float32")} | flags
    return {f"obs/{key}": shape for key, shape in obs_shapes.items()} | steps
