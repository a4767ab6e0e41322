"""Reach, a small continuous pixel task that needs no package and is learned in minutes."""

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.envs.registry import EnvSettings, limit_and_repeat, refuse_variant, register_task
from dreamer_jax.envs.wrappers import Reset, Step

SIZE = 64  # pixels, both axes
LOW, HIGH = 8, 56  # range of the dot's centre on both axes, pixels
TARGET = 32.0, 32.0
WIDTH = 8.0  # standard deviation of dot and target, pixels
BACKGROUND = 128  # grey is 0 to the agent, so that a decoder starts out near it
SPEED = 3.0  # pixels per step along each axis, at full action
REACH = 24.0  # distance from which on there is no reward, pixels
STEPS = 30  # per episode
PIXELS = np.arange(SIZE) + 0.5  # centres of the pixels along one axis

Point = tuple[float, float]  # x to the right, y down


class Reach(gymnasium.Env):
    """Move a dot onto a target and keep it there.

    The target is in the middle of the image. The dot starts with its centre at integer pixels,
    uniform from 8 to 56 on both axes. The action, float32 [2] in [-1, 1], moves the dot right and
    down by 3 pixels times the action, within the same bounds. The reward of every step is
    max(0, 1 - distance / 24) of the centres after the move, in pixels. An episode is 30 steps and
    ends truncated.

    The axes are independent, and the reward falls with the distance along either. The best policy
    therefore closes both distances as fast as possible: after step t they are
    max(0, |dx| - 3t) and max(0, |dy| - 3t). Over all starts this makes the best possible mean
    return 28.097; uniformly random actions get about 7.3.

    Observation: uint8 [64, 64, 3], two blurred spots (Gaussian, standard deviation 8 pixels) on
    grey: the target brightens the first channel and the dot the other two.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}
    render_mode = "rgb_array"
    exact_state = True  # `get_state` and `set_state` need no trial

    def __init__(self) -> None:
        self.observation_space = spaces.Box(0, 255, (SIZE, SIZE, 3), np.uint8)
        self.action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self._step = STEPS
        self._dot = (float(LOW), float(LOW))
        self._background = np.full((SIZE, SIZE, 3), BACKGROUND, np.uint8)
        self._background[..., 0] = _spot(TARGET)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        super().reset(seed=seed)
        self._step = 0
        x, y = self.np_random.integers(LOW, HIGH + 1, size=2).tolist()
        self._dot = float(x), float(y)
        return self._image(), {}

    def step(self, action: np.ndarray) -> Step:
        if self._step == STEPS:
            raise ValueError("the episode is over: call reset() first")
        self._step += 1
        right, down = float(action[0]), float(action[1])
        self._dot = _moved(self._dot[0], right), _moved(self._dot[1], down)
        reward = max(0.0, 1.0 - math.dist(self._dot, TARGET) / REACH)
        return self._image(), reward, False, self._step == STEPS, {}

    def render(self) -> np.ndarray:
        """Return the image four times as large, uint8 [256, 256, 3]."""
        return self._image().repeat(4, axis=0).repeat(4, axis=1)

    def get_state(self) -> dict[str, Any]:
        """Return everything that the future depends on, as a picklable dictionary."""
        rng = self.np_random.bit_generator.state
        return {"step": self._step, "dot": self._dot, "rng": rng}

    def set_state(self, state: dict[str, Any]) -> None:
        """Resume exactly from a state that `get_state` returned."""
        self._step, self._dot = state["step"], state["dot"]
        self.np_random.bit_generator.state = state["rng"]

    def _image(self) -> np.ndarray:
        image = self._background.copy()
        image[..., 1:] = _spot(self._dot)[..., None]
        return image


def _moved(position: float, action: float) -> float:
    return min(max(position + SPEED * min(max(action, -1.0), 1.0), LOW), HIGH)


def _spot(center: Point) -> np.ndarray:
    """Return one channel [64, 64], white at the centre and fading to the background."""
    across, down = (np.exp(-0.5 * ((PIXELS - c) / WIDTH) ** 2) for c in center)
    return np.rint(BACKGROUND + (255 - BACKGROUND) * np.outer(down, across)).astype(np.uint8)


@register_task("reach")
def make_reach(variant: str, seed: int, settings: EnvSettings) -> gymnasium.Env:
    refuse_variant("reach", variant)
    return limit_and_repeat(Reach(), settings)
