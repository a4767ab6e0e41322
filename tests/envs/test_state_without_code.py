"""Environments of the user's script are saved without their code."""

import subprocess
import sys
import types

import pytest

from dreamer_jax.envs import env_maker
from dreamer_jax.envs.vector.vector import LocalVector

SCRIPT = """
import functools
import gymnasium
import numpy as np
from gymnasium import spaces
from dreamer_jax.envs import env_maker
from dreamer_jax.envs.vector.process import ProcessVector

SEEN = []

class Mine(gymnasium.Env):
    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)
    time = 0

    def __init__(self):
        self.count = lambda time: time + 1  # an attribute that plain pickle refuses

    def observe(self):
        return np.array([self.np_random.random(), self.time], np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.observe(), {}

    def step(self, action):
        SEEN.append(action)
        self.time = self.count(self.time)
        return self.observe(), 1.0, False, False, {}

def make(seed):
    return Mine()
"""


@pytest.fixture
def script(monkeypatch):
    """The definitions of a script that is being run."""
    module = types.ModuleType("__main__")
    monkeypatch.setitem(sys.modules, "__main__", module)
    exec(SCRIPT, vars(module))
    return module


def make_vector(script):
    make_env = env_maker(script.make)
    return LocalVector([lambda: make_env(5)])


def steps(vector, count):
    return [copied(vector.step([1])[0]) for _ in range(count)]


def copied(result):
    return result.obs["vector"].tolist(), result.reward.tolist()


def test_saving_changes_nothing_in_the_script(script):
    vector, step = make_vector(script), script.Mine.step
    vector.reset()
    steps(vector, 3)
    (state,), _ = vector.get_states()
    expected = steps(vector, 4)
    assert vector.set_states([state])[0].all()
    assert steps(vector, 4) == expected
    assert script.Mine.step is step and len(script.SEEN) == 11


def test_a_restored_environment_has_the_code_of_now(script):
    vector = make_vector(script)
    vector.reset()
    steps(vector, 3)
    (state,), _ = vector.get_states()
    expected = steps(vector, 2)
    exec(SCRIPT.replace("1.0, False", "2.0, False"), vars(script))
    vector = make_vector(script)
    vector.reset()
    assert vector.set_states([state])[0].all()
    found = steps(vector, 2)
    assert [obs for obs, _ in found] == [obs for obs, _ in expected]
    assert [reward for _, reward in found] == [[2.0], [2.0]]


RUN = """
import multiprocessing, os

class Parent(Mine):
    def __init__(self):
        super().__init__()
        child = multiprocessing.get_context("fork").Process(target=int)
        child.start()
        child.join()

print("the script runs")
make_env = env_maker(lambda seed: Parent())
vector = ProcessVector([functools.partial(make_env, seed) for seed in range(2)], 1)
vector.reset()
print(vector.step([0, 1])[0].reward)
vector.close()
"""


def test_a_script_needs_no_guard_and_environments_may_have_processes(tmp_path):
    file = tmp_path / "script.py"
    file.write_text(SCRIPT + RUN)
    done = subprocess.run([sys.executable, file], capture_output=True, text=True, timeout=60)
    assert done.stdout == "the script runs\n[1. 1.]\n", done.stderr
