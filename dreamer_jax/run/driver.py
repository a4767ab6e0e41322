"""The environment side of a run: steps M*E environments and records what happens.

Within one step: environments whose episode ended are reset and their first observation recorded;
the policy acts in all; every environment steps and its transition is recorded. So every member
makes E decisions a step whatever its episodes' lengths.
"""

from collections.abc import Callable, Mapping, Sequence

import gymnasium
import numpy as np

from dreamer_jax.envs.vector import FaultTolerantVector
from dreamer_jax.replay.replay import Replay
from dreamer_jax.seeding import action_generator, env_seed
from dreamer_jax.types import ActionSpec


def make_row_env(
    make_env: Callable[[int], gymnasium.Env],
    seeds: Sequence[int],
    use: int,
    num_envs: int,
    row: int,
    generation: int,
) -> gymnasium.Env:
    """The environment of row m*E + e, seeded by member m's seed, use, e and generation.

    Args:
        make_env: seed -> environment; num_envs: E.
    """
    member, index = divmod(row, num_envs)
    return make_env(env_seed(seeds[member], use, index, generation))


class Driver:
    """Steps the environments of M members, N = M*E rows, member-major."""

    def __init__(
        self,
        vector: FaultTolerantVector,
        replay: Replay,
        seeds: Sequence[int],
        obs_keys: Sequence[str],
    ):
        """Args: obs_keys: the observation entries that the agent uses and the replay keeps."""
        self._vector, self._replay, self._seeds = vector, replay, list(seeds)
        self._keys = tuple(obs_keys)
        self._action = ActionSpec.of(vector.action_space)
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
            no_action = self._action.none(self._shape)
            self._record(obs, no_action, np.zeros(len(first)), first, nothing, nothing, first)
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
        rngs = [action_generator(seed, env_step) for seed in self._seeds]
        return np.stack([self._action.random(rng, self._shape[1]) for rng in rngs])

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

    def _record(self, obs, action, reward, is_first, is_last, is_terminal, mask) -> None:
        step = {f"obs/{key}": obs[key] for key in self._keys}
        step["action"] = action
        step["reward"] = reward.astype(np.float32).reshape(self._shape)
        flags = {"is_first": is_first, "is_last": is_last, "is_terminal": is_terminal}
        step |= {name: flag.reshape(self._shape) for name, flag in flags.items()}
        self._replay.add(step, mask.reshape(self._shape))

    def _grid(self, obs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {key: obs[key].reshape(*self._shape, *obs[key].shape[1:]) for key in self._keys}


class EpisodeStats:
    """Returns and lengths of the episodes each member finished since the last `pop`."""

    def __init__(self, num_members: int):
        if num_members < 1:
            raise ValueError(f"num_members must be at least 1, got {num_members}")
        self._episodes: list[list[tuple[float, int]]] = [[] for _ in range(num_members)]

    def add(self, member: int, ret: float, length: int) -> None:
        """Counts one finished episode.

        Args:
          member: 0 <= member < num_members.
          ret: undiscounted sum of the episode's rewards.
          length: env steps.
        """
        if not 0 <= member < len(self._episodes):
            raise ValueError(f"member must be in [0, {len(self._episodes)}), got {member}")
        self._episodes[member].append((float(ret), int(length)))

    def pop(self) -> list[dict[str, float | int]]:
        """Per member train_return (mean), its min and max, train_length (mean), train_episodes;
        an empty dict where no episode has finished. Starts anew."""
        popped = [_summary(episodes) for episodes in self._episodes]
        self._episodes = [[] for _ in self._episodes]
        return popped

    def state(self) -> list[list[list[float]]]:
        """Per member the [return, length] of each episode; JSON can hold it."""
        return [[list(episode) for episode in episodes] for episodes in self._episodes]

    def restore(self, state: Sequence[Sequence[Sequence[float]]]) -> None:
        """Takes a `state()` back. Raises ValueError if it is of another number of members."""
        if len(state) != len(self._episodes):
            raise ValueError(
                f"episode statistics of {len(state)} members, this run has {len(self._episodes)}"
            )
        self._episodes = [
            [(float(ret), int(length)) for ret, length in episodes] for episodes in state
        ]


def _summary(episodes: Sequence[tuple[float, int]]) -> dict[str, float | int]:
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


def replay_spec(obs_shapes: Mapping, action: ActionSpec) -> dict:
    """Keys, shapes and dtypes of one replay record."""
    return {f"obs/{key}": shape for key, shape in obs_shapes.items()} | {
        "action": (action.shape, action.dtype),
        "reward": ((), "float32"),
        "is_first": ((), "bool"),
        "is_last": ((), "bool"),
        "is_terminal": ((), "bool"),
    }
