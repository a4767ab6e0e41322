"""Runs of a few members that compile quickly, for the tests of `run/members.py`.

All tests share the work directories `killed_run`, `finished_run` and `early_run`, and may only read
them; `killed_copy` may be changed.
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
from dreamer_jax.run import members
from dreamer_jax.run.checkpoint import Checkpoints
from dreamer_jax.run.driver import Driver
from dreamer_jax.run.load import read_checkpoint
from dreamer_jax.run.setup import build
from dreamer_jax.run.workdir import WorkDir


class Places(Catch):
    """Catch that observes the places of ball and paddle: nothing to compile for images."""

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
        members.add_members, members.extract, members.join, members.list_members, killing.newest,
    )
)  # fmt: skip


def member_config(seeds, **changes):
    small = {"length": 8, "eval_every": 60, "horizon": 2, **SHALLOW}
    config = make_tiny_config(seeds=seeds, **small | changes)
    config.env.num_envs = 2
    return config


@contextlib.contextmanager
def killed_after(steps):
    """Expect the run inside to be interrupted, without a save, after so many environment steps."""
    original, calls = Driver.step, []

    def step(self, actions):
        calls.append(1)
        if len(calls) > steps:
            raise KeyboardInterrupt
        return original(self, actions)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Driver, "step", step)
        yield


@pytest.fixture(scope="session")
def killed_run(tmp_path_factory):
    """Three members, saved at env step 150, between log lines."""
    workdir = tmp_path_factory.mktemp("runs") / "killed"
    with killed_after(84):
        train(member_config((7, 3, 5)), workdir, make_env)
    return workdir


@pytest.fixture(scope="session")
def finished_run(killed_run):
    """The same run, resumed and finished at 240."""
    workdir = killed_run.with_name("finished")
    shutil.copytree(killed_run, workdir)
    train(member_config((7, 3, 5), steps=240), workdir, make_env)
    return workdir


@pytest.fixture(scope="session")
def early_run(tmp_path_factory):
    """Two members of a registered task, saved at 20: before any log line, update or batch."""
    workdir = tmp_path_factory.mktemp("runs") / "early"
    config = member_config((7, 3), task="gym:CartPole-v1", checkpoint_every=20)
    with killed_after(15):
        train(config, workdir)
    return workdir


def change_host(workdir, change):
    """Save the newest checkpoint again with `change(host)` as its host data."""
    work = WorkDir(workdir)
    shapes = build(work.read_config(), make_env).saved_shapes()
    arrays, host = read_checkpoint(work, shapes)
    checkpoints = Checkpoints(work.checkpoints, keep=10)
    checkpoints.save(host["env_step"], arrays, change(host), before=lambda: None)
    checkpoints.completed(wait=True)
    checkpoints.close()


@pytest.fixture
def killed_copy(killed_run, tmp_path):
    """A copy of the killed run that may be changed."""
    return shutil.copytree(killed_run, tmp_path / "copy")
