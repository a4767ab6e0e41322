"""The environment side of a run: steps M*E environments and records what happens.

Within one step: environments whose episode ended are reset and their first observation recorded;
the policy acts in all; every environment steps and its transition is recorded. So every member
makes E decisions a step whatever its episodes' lengths.
"""

from collections.abc import Callable, Mapping, Sequence

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.envs import TolerantVector, make_env
from dreamer_jax.logger import EpisodeStats
from dreamer_jax.replay import Replay

# Numbered uses of a seed, so that no two random streams of a member coincide.
ENV_STREAM, EVAL_STREAM, RANDOM_STREAM = 1, 2, 3


def stream_seed(seed: int, use: int, index: int, generation: int = 0) -> int:
    """A 32-bit seed for random stream number `index` of a member's numbered use.

    Args:
        generation: how often what draws from the stream has been replaced by a new one.
    """
    entropy = [seed, use, index] + [generation] * (generation > 0)
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def make_row_env(
    task: str | Callable[[int], gymnasium.Env],
    seeds: Sequence[int],
    use: int,
    num_envs: int,
    settings: Mapping,
    row: int,
    generation: int,
) -> gymnasium.Env:
    """The environment of row m*E + e, seeded by member m's seed, use, e and generation.

    Args:
        task, settings: of `make_env`; num_envs: E.
    """
    member, index = divmod(row, num_envs)
    return make_env(task, stream_seed(seeds[member], use, index, generation), **settings)


class Driver:
    """Steps the environments of M members, N = M*E rows, member-major."""

    def __init__(
        self, vector: TolerantVector, replay: Replay, seeds: Sequence[int], obs_keys: Sequence[str]
    ):
        """Args: obs_keys: the observation entries that the agent uses and the replay keeps."""
        self._vector, self._replay, self._seeds = vector, replay, list(seeds)
        self._keys = tuple(obs_keys)
        self._members = len(self._seeds)
        self._shape = (self._members, vector.num_envs // self._members)
        self._is_first = np.ones(vector.num_envs, bool)
        self._returns = np.zeros(vector.num_envs)
        self._lengths = np.zeros(vector.num_envs, np.int64)
        self.stats = EpisodeStats(self._members)

    def begin(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Reset where an episode ended.

        Returns:
            The observations to act on, entries [M, E, ...], and is_first [M, E] bool.
        """
        first = self._is_first.copy()
        obs = self._vector.reset(first) if first.any() else self._vector.observations()
        obs = self._grid(obs)
        if first.any():
            self._returns[first], self._lengths[first] = 0, 0
            nothing = np.zeros(self._vector.num_envs, bool)
            self._record(
                obs, self._no_action(), np.zeros(len(first)), first, nothing, nothing, first
            )
        return obs, first.reshape(self._shape)

    def finish(self, actions: np.ndarray) -> np.ndarray:
        """Step every environment.

        Args:
            actions: [M, E] indices, or [M, E, A] in [-1, 1].

        Returns:
            [M, E] bool, the environments that failed: their steps did not happen, new episodes
            begin, and the caller closes the open ones in the replay.
        """
        result = self._vector.step(actions.reshape(-1, *actions.shape[2:]))
        obs, nowhere = self._grid(result.obs), np.zeros_like(self._is_first)
        flags = (nowhere, result.is_last, result.is_terminal)
        self._record(obs, actions, result.reward, *flags, ~result.failed)
        self._returns += result.reward
        self._lengths += 1
        for row in np.flatnonzero(result.is_last):
            member = int(row) // self._shape[1]
            self.stats.add(member, float(self._returns[row]), int(self._lengths[row]))
        self._is_first = result.is_last | result.failed
        return result.failed.reshape(self._shape)

    def random_actions(self, env_step: int) -> np.ndarray:
        """Uniform actions of each member's own stream: a function of seed and step alone."""
        space, count = self._vector.action_space, self._shape[1]
        rngs = [np.random.default_rng([seed, RANDOM_STREAM, env_step]) for seed in self._seeds]
        if isinstance(space, spaces.Discrete):
            return np.stack([rng.integers(space.n, size=count, dtype=np.int32) for rng in rngs])
        size = (count, *space.shape)
        return np.stack([rng.uniform(-1, 1, size).astype(np.float32) for rng in rngs])

    def state(self) -> dict:
        """What `restore` needs, but for the environments: JSON data."""
        return {
            "is_first": self._is_first.tolist(),
            "returns": self._returns.tolist(),
            "lengths": self._lengths.tolist(),
            "stats": self.stats.state(),
        }

    def restore(self, state: Mapping, restored: np.ndarray) -> None:
        """Go on from `state`. Args: restored: [N] bool, the environments that go on too.

        The open episodes of the others are closed as truncated, and they start a fresh one.
        """
        self._is_first = np.array(state["is_first"], bool) | ~restored
        self._returns = np.array(state["returns"], float)
        self._lengths = np.array(state["lengths"], np.int64)
        self.stats.restore(state["stats"])
        self._replay.close_open(~restored.reshape(self._shape))

    def _no_action(self) -> np.ndarray:
        space = self._vector.action_space
        if isinstance(space, spaces.Discrete):
            return np.full(self._shape, -1, np.int32)
        return np.zeros((*self._shape, *space.shape), np.float32)

    def _record(self, obs, action, reward, is_first, is_last, is_terminal, mask) -> None:
        step = {f"obs/{key}": obs[key] for key in self._keys}
        step["action"] = action
        step["reward"] = reward.astype(np.float32).reshape(self._shape)
        flags = {"is_first": is_first, "is_last": is_last, "is_terminal": is_terminal}
        step |= {name: flag.reshape(self._shape) for name, flag in flags.items()}
        self._replay.add(step, mask.reshape(self._shape))

    def _grid(self, obs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {key: obs[key].reshape(*self._shape, *obs[key].shape[1:]) for key in self._keys}


def replay_spec(obs_shapes: Mapping, action_space: spaces.Space) -> dict:
    """Keys, shapes and dtypes of one replay record."""
    if isinstance(action_space, spaces.Discrete):
        action = ((), "int32")
    else:
        action = (action_space.shape, "float32")
    return {f"obs/{key}": shape for key, shape in obs_shapes.items()} | {
        "action": action,
        "reward": ((), "float32"),
        "is_first": ((), "bool"),
        "is_last": ((), "bool"),
        "is_terminal": ((), "bool"),
    }
