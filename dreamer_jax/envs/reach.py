"""Reach: a small continuous pixel task that needs no package and is learned in minutes."""

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

SIZE = 64  # pixels, both axes
LOW, HIGH = 8, 56  # where the centres of dot and target may be, on both axes
RADIUS = 6  # of dot and target, pixels
SPEED = 3.0  # pixels a step along each axis, at full action
REACH = 24.0  # pixels between dot and target beyond which there is no reward
STEPS = 30  # of an episode
PATCH = np.arange(2 * RADIUS + 2)  # pixels of one axis that a disc may touch

Point = tuple[float, float]  # x to the right, y down


class Reach(gymnasium.Env):
    """Move a dot onto a target and keep it there.

    Dot and target start with their centres on whole pixels from 8 to 56 on both axes, each
    uniformly and independently. The target stays. Action: float32 [2] in [-1, 1], moves the dot
    right and down by 3 pixels times the action, within the same bounds. The reward of every step
    is max(0, 1 - distance / 24) of the centres after the move, in pixels. An episode is 30 steps
    and ends truncated.

    The axes are independent, and the reward falls with the distance along either. So it is best
    to close both distances as fast as they can be closed: after step t they are
    max(0, |dx| - 3t) and max(0, |dy| - 3t). Over all starts this makes the best possible mean
    return 26.179; uniformly random actions get about 5.4.

    Observation: uint8 [64, 64, 3], discs of radius 6, the target in the first channel and the dot
    in the other two, both with soft edges, so that moves by less than a pixel are seen.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    render_mode = "rgb_array"

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._step = STEPS
        self._dot = self._target = (float(LOW), float(LOW))
        self._background = np.zeros((SIZE, SIZE, 3), np.uint8)  # with the target in it

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._step = 0
        starts = self.np_random.integers(LOW, HIGH + 1, size=4).tolist()
        self._dot = float(starts[0]), float(starts[1])
        self._place_target((float(starts[2]), float(starts[3])))
        return self._image(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """Move the dot.

        Raises:
            ValueError: the episode is over.
        """
        if self._step == STEPS:
            raise ValueError("the episode is over: call reset() first")
        self._step += 1
        right, down = float(action[0]), float(action[1])
        self._dot = _moved(self._dot[0], right), _moved(self._dot[1], down)
        reward = max(0.0, 1.0 - math.dist(self._dot, self._target) / REACH)
        return self._image(), reward, False, self._step == STEPS, {}

    def render(self) -> np.ndarray:
        """The image four times as large, uint8 [256, 256, 3]."""
        return self._image().repeat(4, axis=0).repeat(4, axis=1)

    def get_state(self) -> dict[str, Any]:
        """All that the future depends on, as a picklable dictionary."""
        rng = self.np_random.bit_generator.state
        return {"step": self._step, "dot": self._dot, "target": self._target, "rng": rng}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on exactly from where `get_state` was called."""
        self._step, self._dot = state["step"], state["dot"]
        self._place_target(state["target"])
        self.np_random.bit_generator.state = state["rng"]

    def _place_target(self, target: Point) -> None:
        self._target = target
        self._background[:] = 0
        _draw(self._background[..., :1], target)

    def _image(self) -> np.ndarray:
        image = self._background.copy()
        _draw(image[..., 1:], self._dot)
        return image


def _moved(position: float, action: float) -> float:
    return min(max(position + SPEED * min(max(action, -1.0), 1.0), LOW), HIGH)


def _draw(channels: np.ndarray, center: Point) -> None:
    """Draw a disc whose brightness falls from 255 to 0 across the last pixel of its radius."""
    left, top = (math.floor(c) - RADIUS - 1 for c in center)
    x, y = PATCH + (left + 0.5 - center[0]), PATCH + (top + 0.5 - center[1])
    distance = np.sqrt(np.add.outer(y * y, x * x))
    disc = np.minimum(np.maximum(RADIUS + 0.5 - distance, 0.0), 1.0) * 255.0
    patch = channels[top : top + PATCH.size, left : left + PATCH.size]
    patch[:] = np.rint(disc)[..., None]
