"""Environments and an emulator with scripted outputs, and calls of vectors that must succeed."""

import dataclasses
import functools
import os
import signal
import time

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.envs import make_env
from dreamer_jax.envs.atari import Atari
from dreamer_jax.envs.vector.process import ProcessVector
from dreamer_jax.envs.vector.vector import LocalVector


class Scripted(gymnasium.Env):
    """Return the given observation, reward and flags, and record the actions."""

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
    """Fail in the given way."""
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
    if how == "orphan":  # ends, but leaves a process that inherits everything that was open
        if os.fork() == 0:
            time.sleep(4)
        os._exit(3)


class Puppet(gymnasium.Env):
    """Fail as the action says, and in other methods as the constructor's arguments say.

    Observation: the mark, the number of steps in the episode, and a random number per step.

    Args:
        trouble: the ways in which 'build', 'reset', 'close', 'get_state' and 'set_state' fail.
    """

    exact_state = True

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
    """Return a function that builds the puppet of a vector's row, its mark and its seed."""
    return functools.partial(make_puppet, seed=row, mark=row, **settings)


def make_vector(env_fns, workers=0, **settings):
    """Build a vector in this process, or in a number of workers."""
    return ProcessVector(env_fns, workers, **settings) if workers else LocalVector(env_fns)


def reset_rows(vector, mask=None):
    """Reset rows without a fault, and return copies of the observations."""
    assert vector.reset(mask) == []
    return copied(vector.observations())


def step_rows(vector, actions, mask=None):
    """Step rows without a fault, and return a result whose observations are copies."""
    result, faults = vector.step(actions, mask)
    assert faults == []
    return dataclasses.replace(result, obs=copied(result.obs))


def copied(obs):
    return {key: value.copy() for key, value in obs.items()}


def exits(process):
    """Return whether a process that is not a child of this one ends within some seconds."""
    for _ in range(100):
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


class FakeALE:
    """A game of constant screens: frame t has brightness `screens[t]`, and the last one ends it."""

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
