"""Atari 2600 games with the protocol of Machado et al. 2018, on the emulator's own interface.

The module uses `ALEInterface` rather than its gymnasium wrappers, because these keep no exact state
and leave the frame loop before they read the last frame of an episode.
"""

import functools
from pathlib import Path
from typing import Any

import cv2
import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.envs.registry import EnvSettings, register_task
from dreamer_jax.envs.wrappers import Reset, Step
from dreamer_jax.errors import unknown

NOOP = 0
TIME_LIMIT = 108_000  # emulator frames: 30 minutes at 60 Hz
# These cartridges have no one-player mode; the emulator ends the process that loads them.
MULTIPLAYER_ONLY = frozenset({"combat", "joust", "maze_craze", "warlords"})


@functools.cache
def games() -> tuple[str, ...]:
    """Return the names of all games, in snake case, sorted."""
    from ale_py import roms

    return tuple(sorted(set(roms.get_all_rom_ids()) - MULTIPLAYER_ONLY))


def find_rom(game: str) -> tuple[str, Path]:
    """Return the emulator's name of a game and the path of its ROM.

    Args:
        game: a name of `games()`; underscores may be left out or added (`james_bond`).

    Raises:
        ValueError: the game is unknown.
        FileNotFoundError: the game's ROM is not installed.
    """
    name = {known.replace("_", ""): known for known in games()}.get(game.replace("_", ""))
    if name is None:
        raise unknown("Atari game", game, games())
    from ale_py import roms

    try:
        return name, roms.get_rom_path(name)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(
            f"the ROM of {name!r} is missing ({error}): reinstall ale-py, whose wheels hold the "
            f"ROMs (pip install --force-reinstall ale-py), or point ALE_ROMS_DIR at a folder "
            f"that has {name}.bin"
        ) from error


class Atari(gymnasium.Env):
    """One game with its full action set, sticky actions, raw rewards and no life information.

    Observation: uint8 [size, size, 1], the elementwise maximum of the last two grey frames,
    including the true last frame at the end of a game, resized by area. Action: an index into the
    emulator's legal actions: 18, except Skiing and Lost Luggage, which have 9. Game over is
    terminal, the time limit is a truncation.

    Args:
        game: see `find_rom`, which may raise.
        size: height and width of the observation, in pixels.
        action_repeat: emulator frames per step, at least 1.
        sticky: probability in [0, 1) that a frame repeats the last frame's action.
        noops: maximum number of no-op frames after a reset, uniform from 1; 0 for none.
        time_limit: emulator frames per episode, not counting the no-ops.
        seed: the emulator's seed until `reset(seed=...)`. Passing the same seed to both avoids
            loading the game twice.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 15}
    render_mode = "rgb_array"
    exact_state = True  # `get_state` and `set_state` need no trial

    def __init__(
        self,
        game: str,
        *,
        size: int = 64,
        action_repeat: int = 4,
        sticky: float = 0.25,
        noops: int = 30,
        time_limit: int = TIME_LIMIT,
        seed: int = 0,
    ) -> None:
        import ale_py

        if not 0.0 <= sticky < 1.0:
            raise ValueError(f"sticky must be in [0, 1), not {sticky}")
        if action_repeat < 1 or time_limit < 1 or size < 1 or noops < 0:
            raise ValueError(
                f"size, action_repeat and time_limit must be at least 1 and noops at least 0, not "
                f"{size}, {action_repeat}, {time_limit} and {noops}"
            )
        self.game, self._rom = find_rom(game)
        self._size, self._action_repeat = size, action_repeat
        self._noops, self._time_limit = noops, time_limit
        # Sticky actions are not left to the emulator, which omits its last action from the states
        # that it clones. As there, the last action survives the end of an episode.
        self._sticky, self._last_action = sticky, NOOP
        self._frames = 0
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self.ale = ale_py.ALEInterface()
        self.ale.setFloat("repeat_action_probability", 0.0)
        self._load(seed)
        self._actions = self.ale.getLegalActionSet()
        self._screens = [np.zeros(self.ale.getScreenDims(), np.uint8) for _ in range(2)]
        self.observation_space = spaces.Box(0, 255, (size, size, 1), np.uint8)
        self.action_space = spaces.Discrete(len(self._actions))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        super().reset(seed=seed)
        if seed is not None:
            self._last_action = NOOP
            if seed != self._untouched_seed:
                self._load(seed)
        self._untouched_seed = None
        self.ale.reset_game()
        for _ in range(int(self.np_random.integers(1, self._noops + 1)) if self._noops else 0):
            self._act(NOOP)
            if self.ale.game_over(with_truncation=False):
                self.ale.reset_game()
        self._frames = 0
        for screen in self._screens:
            self.ale.getScreenGrayscale(screen)
        return self._observation(), {}

    def step(self, action: int) -> Step:
        reward = 0.0
        for _ in range(self._action_repeat):
            reward += self._act(action)
            self._frames += 1
            # Read every frame, because any may turn out to be the last but one.
            self._screens.reverse()
            self.ale.getScreenGrayscale(self._screens[-1])
            terminated = self.ale.game_over(with_truncation=False)
            truncated = self._frames >= self._time_limit
            if terminated or truncated:
                break
        return self._observation(), reward, terminated, truncated, {}

    def render(self) -> np.ndarray:
        """Return the screen in colour, uint8 [210, 160, 3]; stale right after `set_state`."""
        return self.ale.getScreenRGB()

    def get_state(self) -> dict[str, Any]:
        """Return everything that the future depends on, as a picklable dictionary."""
        return {
            "game": self.game,
            "emulator": self.ale.cloneState(include_rng=True),
            "acted": self.ale.getEpisodeFrameNumber() > 0,
            "rng": self.np_random.bit_generator.state,
            "last": self._last_action,
            "screens": [screen.copy() for screen in self._screens],
            "frames": self._frames,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Resume exactly from a state that `get_state` returned for the same game."""
        if state["game"] != self.game:
            raise ValueError(f"a state of {state['game']!r} cannot be restored in {self.game!r}")
        self._untouched_seed = None
        # Cloned states omit whether the emulator has acted since its last reset, on which the
        # future of Q*bert and Tetris depends.
        self.ale.reset_game()
        if state["acted"]:
            self.ale.act(self._actions[NOOP])
        self.ale.restoreState(state["emulator"])
        self.np_random.bit_generator.state = state["rng"]
        self._last_action = state["last"]
        self._screens = [screen.copy() for screen in state["screens"]]
        self._frames = state["frames"]

    def _load(self, seed: int) -> None:
        # A child of the seed of `np_random`, so that the two streams are unrelated.
        word = np.random.SeedSequence(seed, spawn_key=(1,)).generate_state(1)[0]
        self.ale.setInt("random_seed", int(word & 0x7FFFFFFF))
        self.ale.loadROM(self._rom)
        self._untouched_seed: int | None = seed

    def _act(self, action: int) -> float:
        if self.np_random.random() >= self._sticky:
            self._last_action = action
        return self.ale.act(self._actions[self._last_action])

    def _observation(self) -> np.ndarray:
        size = (self._size, self._size)
        return cv2.resize(np.maximum(*self._screens), size, interpolation=cv2.INTER_AREA)[..., None]


@register_task("atari")
def make_atari(game: str, seed: int, settings: EnvSettings) -> gymnasium.Env:
    """Build 'atari:<game>', such as 'atari:ms_pacman'.

    An episode is limited to 108,000 frames. Games are usually played with an action repeat of 4.
    """
    return Atari(
        game,
        size=settings.size,
        action_repeat=settings.action_repeat,
        sticky=settings.sticky,
        noops=settings.noops,
        time_limit=settings.time_limit or TIME_LIMIT,
        seed=seed,
    )
