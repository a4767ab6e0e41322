"""Runs of a few members that compile quickly, for the tests that take members out of runs.

The work directories `killed_run`, `finished_run` and `early_run` are there once for all tests: they
may be read, `killed_copy` may be spoilt.
"""

import contextlib
import shutil
from functools import partial

import killing
import numpy as np
import pytest
from conftest import SHALLOW, make_tiny_config
from gymnasium import spaces

from dreamer_jax import train
from dreamer_jax.envs.catch import Catch
from dreamer_jax.run import members as membership
from dreamer_jax.run.driver import Driver


class Places(Catch):
    """Catch whose observation is the places of ball and paddle: nothing to compile for images."""

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(0, 8, (3,), np.float32)

    def _image(self):
        return np.array([self._row, self._ball, self._paddle], np.float32)


def make_env(seed):
    return Places()


add_members, extract, join, list_members, newest = (
    partial(function, make_env=make_env)
    for function in (
        membership.add_members, membership.extract, membership.join, membership.list_members,
        killing.newest,
    )
)  # fmt: skip


def member_config(seeds, **changes):
    small = {"length": 8, "eval_every": 60, "horizon": 2, **SHALLOW}
    config = make_tiny_config(seeds=seeds, **small | changes)
    config.env.num_envs = 2
    return config


@contextlib.contextmanager
def killed_after(steps):
    """The process ends without a word after so many steps of its environments."""
    original, calls = Driver.finish, []

    def finish(self, actions):
        calls.append(1)
        if len(calls) > steps:
            raise KeyboardInterrupt
        return original(self, actions)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Driver, "finish", finish)
        yield


@pytest.fixture(scope="session")
def killed_run(tmp_path_factory):
    """Three members, saved at env step 150, in between of log lines."""
    workdir = tmp_path_factory.mktemp("runs") / "killed"
    with killed_after(84):
        train(member_config((7, 3, 5)), workdir, make_env)
    return workdir


@pytest.fixture(scope="session")
def finished_run(killed_run):
    """The same run brought to its end at 240."""
    workdir = killed_run.with_name("finished")
    shutil.copytree(killed_run, workdir)
    train(member_config((7, 3, 5), steps=240), workdir, make_env)
    return workdir


@pytest.fixture(scope="session")
def early_run(tmp_path_factory):
    """Two members of a task that has a name, saved at 20: before any log line, update or batch."""
    workdir = tmp_path_factory.mktemp("runs") / "early"
    config = member_config((7, 3), task="gym:CartPole-v1", checkpoint_every=20)
    with killed_after(15):
        train(config, workdir)
    return workdir


@pytest.fixture
def killed_copy(killed_run, tmp_path):
    """A copy of the killed run that may be spoilt."""
    return shutil.copytree(killed_run, tmp_path / "copy")
