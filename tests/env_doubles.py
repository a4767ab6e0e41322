"""Environments and an emulator whose every output is written down in the test."""

import functools
import os
import signal
import time

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.envs import make_env
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


ACTS = ("nothing", "raise", "hang", "exit", "kill", "nan", "orphan", "slow")
NOTHING, RAISE, HANG, EXIT, KILL, NAN, ORPHAN, SLOW = range(len(ACTS))


def act_up(how):
    """Fail in the given way; what needs no process of its own first."""
    if how == "raise":
        raise LookupError("the puppet is broken")
    if how == "slow":
        time.sleep(0.3)
    if how == "hang":
        time.sleep(1000)
    if how == "exit":
        os._exit(3)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "orphan":  # ends, but leaves a process that has everything open which this one had
        if os.fork() == 0:
            time.sleep(4)
        os._exit(3)


class Puppet(gymnasium.Env):
    """Fails as its action says, and in its other methods as it is told when it is built.

    Observation: its mark, the steps of the episode, and a random number per step.

    Args:
        trouble: how 'build', 'reset', 'close', 'get_state' and 'set_state' fail.
    """

    def __init__(self, mark=0, length=100, ballast=0, **trouble):
        act_up(trouble.get("build"))
        self.observation_space = spaces.Box(-np.inf, np.inf, (3,), np.float32)
        self.action_space = spaces.Discrete(len(ACTS))
        self.mark, self.length, self.ballast, self.trouble = mark, length, ballast, trouble
        self.time = 0

    def reset(self, *, seed=None, options=None):
        act_up(self.trouble.get("reset"))
        super().reset(seed=seed)
        self.time = 0
        return self.observe(), {}

    def step(self, action):
        act_up(ACTS[action])
        self.time += 1
        reward = np.nan if action == NAN else float(self.time)
        return self.observe(), reward, self.time >= self.length, False, {}

    def observe(self):
        return np.array([self.mark, self.time, self.np_random.random()], np.float32)

    def close(self):
        act_up(self.trouble.get("close"))

    def get_state(self):
        act_up(self.trouble.get("get_state"))
        return self.time, self.np_random.bit_generator.state, bytes(self.ballast)

    def set_state(self, state):
        act_up(self.trouble.get("set_state"))
        self.time, self.np_random.bit_generator.state, _ = state


def make_puppet(seed=0, **settings):
    return make_env(lambda seed: Puppet(**settings), seed, size=8)


def puppet(row=0, **settings):
    """A function that builds the puppet of a vector's row, whose number is its mark and seed."""
    return functools.partial(make_puppet, seed=row, mark=row, **settings)


def exits(process):
    """Whether a process that is no child of this one is gone within some seconds."""
    for _ in range(100):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


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
