"""Environments and an emulator whose every output is written down in the test."""

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.envs.atari import Atari


class Scripted(gymnasium.Env):
    """Returns the given observation, reward and flags, and records the actions."""

    def __init__(self, observation_space, action_space=None, obs=None, reward=0.0, length=10**9):
        self.observation_space = observation_space
        self.action_space = spaces.Discrete(2) if action_space is None else action_space
        self.obs = observation_space.sample() if obs is None else obs
        self.reward, self.length, self.time = reward, length, 0
        self.actions = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.obs, {}

    def step(self, action):
        self.actions.append(action)
        self.time += 1
        return self.obs, self.reward, self.time >= self.length, False, {}


class FakeALE:
    """A game of constant screens: frame t has brightness `screens[t]`, the last one is the end."""

    def __init__(self, screens):
        self.screens = screens
        self.time, self.acted, self.resets = 0, [], 0

    def reset_game(self):
        self.time, self.resets = 0, self.resets + 1

    def act(self, action):
        self.acted.append(action.value)
        self.time += 1
        return 1.0

    def getScreenGrayscale(self, screen):  # noqa: N802, the emulator's name
        screen[:] = self.screens[self.time]

    def game_over(self, with_truncation):
        assert not with_truncation
        return self.time == len(self.screens) - 1

    def cloneState(self, *, include_rng):  # noqa: N802
        assert include_rng
        return self.time

    def restoreState(self, time):  # noqa: N802
        self.time = time

    def getEpisodeFrameNumber(self):  # noqa: N802
        return self.time

    def setInt(self, key, value):  # noqa: N802
        pass

    def loadROM(self, path):  # noqa: N802
        pass


def fake_game(screens, **settings):
    env = Atari("pong", **settings)
    env.ale = FakeALE(screens)
    return env


LONG = np.zeros(200_000, np.uint8)
