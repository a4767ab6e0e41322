"""Catch, a small pixel task that needs no package and is learned in minutes."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.envs.registry import EnvSettings, limit_and_repeat, refuse_variant, register_task
from dreamer_jax.envs.wrappers import Reset, Step

ROWS, COLUMNS = 8, 5
SIZE = 64  # pixels, both axes
CELL_HEIGHT, CELL_WIDTH = 8, 12
LEFT_MARGIN = (SIZE - COLUMNS * CELL_WIDTH) // 2
BALL, PADDLE = 255, 128  # brightness


class Catch(gymnasium.Env):
    """Move a paddle under a falling ball.

    The ball starts in the top row of a grid of 8 rows and 5 columns, in a random column, and falls
    one row per step; the paddle moves along the bottom row from a random column. Actions: 0 left,
    1 stay, 2 right. An episode is 7 steps and ends as terminal when the ball reaches the paddle's
    row, with reward +1 if it is caught and -1 if not; every other reward is 0. The paddle needs at
    most 4 steps to any column, so every ball can be caught: the best expected return is 1.0.
    Uniformly random actions leave the paddle uniform over the columns, hence catch one ball in
    five: -0.6.

    Observation: uint8 [64, 64, 1]; a cell is 8 x 12 pixels and filled, the ball with 255, the
    paddle with 128, the background 0.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}
    render_mode = "rgb_array"
    exact_state = True  # `get_state` and `set_state` need no trial

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 255, (SIZE, SIZE, 1), np.uint8)
        self.action_space = spaces.Discrete(3)
        self._row, self._ball, self._paddle = ROWS - 1, 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        super().reset(seed=seed)
        self._row = 0
        self._ball, self._paddle = (int(c) for c in self.np_random.integers(COLUMNS, size=2))
        return self._image(), {}

    def step(self, action: int) -> Step:
        """Move the paddle, then let the ball fall by one row."""
        if self._row == ROWS - 1:
            raise ValueError("the episode is over: call reset() first")
        self._paddle = min(max(self._paddle + int(action) - 1, 0), COLUMNS - 1)
        self._row += 1
        terminated = self._row == ROWS - 1
        reward = (1.0 if self._ball == self._paddle else -1.0) if terminated else 0.0
        return self._image(), reward, terminated, False, {}

    def render(self) -> np.ndarray:
        """Return the image four times as large, uint8 [256, 256, 3]."""
        return self._image().repeat(4, axis=0).repeat(4, axis=1).repeat(3, axis=2)

    def get_state(self) -> dict[str, Any]:
        """Return everything that the future depends on, as a picklable dictionary."""
        rng = self.np_random.bit_generator.state
        return {"row": self._row, "ball": self._ball, "paddle": self._paddle, "rng": rng}

    def set_state(self, state: dict[str, Any]) -> None:
        """Resume exactly from a state that `get_state` returned."""
        self._row, self._ball, self._paddle = state["row"], state["ball"], state["paddle"]
        self.np_random.bit_generator.state = state["rng"]

    def _image(self) -> np.ndarray:
        image = np.zeros((SIZE, SIZE, 1), np.uint8)
        _fill(image, ROWS - 1, self._paddle, PADDLE)
        _fill(image, self._row, self._ball, BALL)
        return image


def _fill(image: np.ndarray, row: int, column: int, brightness: int) -> None:
    top, left = row * CELL_HEIGHT, LEFT_MARGIN + column * CELL_WIDTH
    image[top : top + CELL_HEIGHT, left : left + CELL_WIDTH] = brightness


@register_task("catch")
def make_catch(variant: str, seed: int, settings: EnvSettings) -> gymnasium.Env:
    refuse_variant("catch", variant)
    return limit_and_repeat(Catch(), settings)
