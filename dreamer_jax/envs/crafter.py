"""Crafter (Hafner 2021), survival in an open world of 64x64 fields, through its package."""

import collections
import pickle
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.envs.registry import EnvSettings, register_task
from dreamer_jax.envs.wrappers import ActionRepeat, Reset, Step
from dreamer_jax.errors import lookup, require

SIZE = 64  # pixels, both axes
TIME_LIMIT = 10_000  # steps
# The attributes of the package's environment that an episode changes.
STATE = ("_seed", "_episode", "_step", "_world", "_player", "_last_health", "_unlocked")


class OrderedSet(dict):
    """The part of a set's interface that the package uses, iterated in order of insertion."""

    def add(self, item: Any) -> None:
        self[item] = None

    def remove(self, item: Any) -> None:
        del self[item]


class Crafter(gymnasium.Env):
    """The world seen from above the player.

    Observation: uint8 [64, 64, 3]. Action: an index into the package's 17 actions. Reward: +1 for
    an achievement's first time in the episode, and a tenth of the change in health. Death is
    terminal, the time limit is a truncation.

    The package draws creatures from sets, which Python orders by memory address, so its episodes
    differ between processes. Here these sets are ordered, so a seed always gives the same episodes.

    Args:
        reward: give rewards; `info` holds the achievements in any case.
        time_limit: steps per episode.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    render_mode = "rgb_array"
    exact_state = True  # `get_state` and `set_state` need no trial

    def __init__(self, *, reward: bool = True, time_limit: int = TIME_LIMIT) -> None:
        package = require("crafter", extra="crafter")
        self._env = package.Env(size=(SIZE, SIZE), reward=reward, length=time_limit, seed=0)
        self.observation_space = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        self.action_space = spaces.Discrete(len(self._env.action_names))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        super().reset(seed=seed)
        if seed is not None:
            self._env._seed, self._env._episode = seed, 0
        obs = self._env.reset()
        _order_chunks(self._env._world)
        return obs, {}

    def step(self, action: int) -> Step:
        obs, reward, done, info = self._env.step(action)
        dead = info["discount"] == 0.0
        return obs, reward, dead, done and not dead, info

    def render(self) -> np.ndarray:
        """Return the image four times as large, uint8 [256, 256, 3]."""
        # Rendering a night draws noise from the world's own random numbers.
        random = self._env._world.random
        state = random.get_state()
        image = self._env.render((4 * SIZE, 4 * SIZE))
        random.set_state(state)
        return image

    def get_state(self) -> bytes:
        """Return everything that the future depends on, pickled."""
        return pickle.dumps({name: getattr(self._env, name) for name in STATE})

    def set_state(self, state: bytes) -> None:
        """Resume exactly from a state that `get_state` returned."""
        vars(self._env).update(pickle.loads(state))
        for view in (self._env._local_view, self._env._sem_view):
            view._world = self._env._world


def _order_chunks(world: Any) -> None:
    """Replace the sets of objects in a new world's chunks with ordered sets."""
    chunks = collections.defaultdict(OrderedSet)
    for key in world.chunks:
        chunks[key]  # fixes the order of iteration
    for item in world.objects:
        chunks[world.chunk_key(item.pos)].add(item)
    world._chunks = chunks


@register_task("crafter")
def make_crafter(variant: str, seed: int, settings: EnvSettings) -> gymnasium.Env:
    """Build 'crafter', or 'crafter:no_reward', which gives no rewards."""
    reward = lookup({"": True, "no_reward": False}, variant, "variant of the task 'crafter'")
    env = Crafter(reward=reward, time_limit=settings.time_limit or TIME_LIMIT)
    return ActionRepeat(env, repeat=settings.action_repeat)
