"""An environment with image and vector observations and continuous actions, which can fail."""

import time
from pathlib import Path

import gymnasium
import numpy as np
from conftest import SHALLOW, make_tiny_config
from gymnasium import spaces


class Probe(gymnasium.Env):
    """Episodes of nine steps with minus the squared action as the reward.

    Args:
        fault: `nan`, `shape`, `raise` or `hang`, the failure at the environment's step number
            `fault_step`.
        once: a file that the first environment to fail creates; where it exists, none fails.
    """

    observation_space = spaces.Dict(
        {
            "camera": spaces.Box(0, 255, (64, 64, 3), np.uint8),
            "speed": spaces.Box(-np.inf, np.inf, (5,), np.float32),
        }
    )
    action_space = spaces.Box(-2, 2, (2,), np.float32)

    def __init__(self, fault=None, fault_step=None, once=None):
        self._fault, self._fault_step, self._once = fault, fault_step, once
        self._total = 0

    def _observe(self):
        image = self.np_random.integers(0, 255, (64, 64, 3), dtype=np.uint8)
        return {"camera": image, "speed": np.full(5, self._time, np.float32)}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._time = 0
        return self._observe(), {}

    def step(self, action):
        self._time += 1
        self._total += 1
        obs, reward = self._observe(), -float(np.square(action).sum())
        if self._total == self._fault_step and self._fails():
            if self._fault == "nan":
                reward = float("nan")
            elif self._fault == "shape":
                obs["camera"] = obs["camera"][:32]
            elif self._fault == "hang":
                time.sleep(1000)
            elif self._fault == "raise":
                raise OSError("the simulator has lost its licence")
        return obs, reward, False, self._time >= 9, {}

    def _fails(self):
        if self._once is None:
            return True
        try:
            Path(self._once).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


def probe_config(**changes):
    """Return a tiny config for one member with two of these environments."""
    config = make_tiny_config(actor_grad="both", eval_episodes=1, **SHALLOW, **changes)
    config.env.num_envs = 2
    return config
