"""An environment of a user: factored actions, vectors, and chance, without a state of its own."""

import gymnasium
import numpy as np
from gymnasium import spaces


class Levers(gymnasium.Env):
    """Episodes of five to twelve steps; the reward counts the levers that follow the lights."""

    observation_space = spaces.Dict(
        {
            "lights": spaces.Box(0, 1, (2,), np.float32),
            "noise": spaces.Box(-np.inf, np.inf, (3,), np.float32),
        }
    )
    action_space = spaces.MultiDiscrete([3, 2])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self._left = int(self.np_random.integers(5, 13))
        return self._observe(), {}

    def step(self, action):
        reward = float((np.asarray(action) == self._lit).sum())
        self._left -= 1
        return self._observe(), reward, False, self._left == 0, {}

    def _observe(self):
        self._lit = self.np_random.integers([3, 2])
        noise = self.np_random.normal(size=3).astype(np.float32)
        return {"lights": np.float32(self._lit / 2), "noise": noise}


def make_levers(seed):
    return Levers()
