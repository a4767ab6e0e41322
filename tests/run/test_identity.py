"""Runs know their environment: what makes it, its spaces, its code and its arguments."""

import argparse
import functools
import json
import shutil
from dataclasses import replace

import gymnasium
import numpy as np
import pytest
from conftest import SHALLOW, make_tiny_config
from gymnasium import spaces

from dreamer_jax import dry_run, evaluate, load, train
from dreamer_jax.commands.flags import find_function
from dreamer_jax.config import from_json, to_json
from dreamer_jax.envs.code import code_digests
from dreamer_jax.errors import UsageError
from dreamer_jax.run.identity import changed_code, check_maker, check_spaces, write_identity
from dreamer_jax.run.setup import build


class Line(gymnasium.Env):
    """Episodes of 20 steps that observe the time."""

    action_space = spaces.Discrete(3)

    def __init__(self, size=2):
        self.observation_space = spaces.Box(0, 99, (size,), np.float32)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.observe(), {}

    def observe(self):
        return np.full(self.observation_space.shape, self.time, np.float32)

    def step(self, action):
        self.time += 1
        return self.observe(), self.reward(), False, self.time >= 20, {}

    def reward(self):
        return 1.0

    def get_state(self):
        return self.time

    def set_state(self, state):
        self.time = state


class Mended(Line):
    def reward(self):
        return 2.0


def make_line(seed, kind=Line, **kwargs):
    return kind(**kwargs)


def line_config(**changes):
    return make_tiny_config(
        **{"steps": 48, "eval_episodes": 1, "checkpoint_every": 0} | SHALLOW | changes
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "line"
    train(line_config(), workdir, make_line)
    return workdir


@pytest.mark.slow
def test_a_run_of_a_function_is_not_opened_without_it(run):
    message = r"made with a function of yours \(test_identity:make_line\).*--make_env=test_identity"
    for call in (evaluate, load, functools.partial(train, line_config(steps=60))):
        with pytest.raises(UsageError, match=message):
            call(run)
    assert load(run, make_env=make_line).env_step == 48
    shown = evaluate(run, episodes=1, make_env=make_line)["environment"]
    assert shown == "a function of yours (test_identity:make_line)"


@pytest.mark.slow
def test_other_spaces_are_refused(run):
    wider = functools.partial(make_line, size=3)
    message = r"(?s)other spaces.*observation_space.*\(2,\).*-> .*\(3,\)"
    for call in (evaluate, functools.partial(train, line_config(steps=60))):
        with pytest.raises(UsageError, match=message):
            call(run, make_env=wider)


@pytest.mark.slow
def test_another_function_is_named(run, caplog):
    evaluate(run, episodes=1, make_env=lambda seed: Line())
    assert "made with a function of yours (test_identity:make_line); now it is" in caplog.text


@pytest.mark.slow
def test_changed_code_begins_new_episodes(run, tmp_path, capsys):
    for name, make_env, changed in (
        ("same", make_line, ""),
        ("mended", functools.partial(make_line, kind=Mended), "test_identity.Mended"),
    ):
        workdir = shutil.copytree(run, tmp_path / name)
        train(line_config(steps=60), workdir, make_env)
        printed = capsys.readouterr().out
        assert ("code has changed since the checkpoint" in printed) == bool(changed)
        assert ("new ones begin" in printed) == bool(changed)
        assert changed in printed


@pytest.mark.slow
def test_a_run_of_a_task_is_not_continued_with_a_function(run, tmp_path):
    workdir = shutil.copytree(run, tmp_path / "run")
    identity = json.loads((workdir / "environment.json").read_text())
    (workdir / "environment.json").write_text(
        json.dumps(identity | {"source": "task", "name": "catch"})
    )
    with pytest.raises(UsageError, match=r"task catch, not with a function.*give no make_env"):
        train(line_config(steps=60), workdir, make_line)


def test_the_maker_is_compared_before_anything_is_built(tmp_path):
    path = tmp_path / "environment.json"
    spaces = build(line_config()).identity
    write_identity(path, replace(spaces, source="function", name="__main__:make_line"))
    assert check_maker(path, "catch", make_line) == ""  # the same, of a script
    with pytest.raises(UsageError, match="give make_env in Python, or --make_env=__main__:make_l"):
        check_maker(path, "catch", None)
    assert "now it is a function of yours" in check_maker(path, "catch", lambda seed: Line())
    write_identity(path, spaces)
    with pytest.raises(UsageError, match="was made with task catch, not with a function"):
        check_maker(path, "catch", make_line)
    assert check_maker(tmp_path / "none", "catch", None) == ""
    with pytest.raises(UsageError, match=r"(?s)other spaces.*action_space: Discrete\(3\) -> B"):
        check_spaces(path, replace(spaces, action_space="Box"))


def test_code_is_compared_by_what_runs():
    old = code_digests([make_line, Line])
    assert changed_code(old, code_digests([make_line, Line])) == ""
    assert changed_code(None, old).startswith("the checkpoint is of a version")
    changed = changed_code(old, code_digests([make_line, Line, Mended]))
    assert changed.endswith("since the checkpoint: test_identity.Mended")


def test_the_environment_is_shown():
    assert dry_run(make_tiny_config())["environment"].startswith("task catch, observation Dict(")


def test_functions_on_the_command_line():
    assert find_function("test_identity:make_line").__qualname__ == "make_line"
    for given, message in (
        ("make_line", "allowed: module:function"),
        ("no_such_module:f", "no module no_such_module"),
        ("test_identity:make_lin", "has no function make_lin. Did you mean 'make_line'"),
    ):
        with pytest.raises(argparse.ArgumentTypeError, match=message):
            find_function(given)


def test_an_instance_is_no_function(tmp_path):
    with pytest.raises(UsageError, match="make_env is an environment, Line; allowed: a function"):
        train(line_config(), tmp_path / "run", Line())


def test_arguments_of_gym_environments():
    config = make_tiny_config(task="gym:Pendulum-v1")
    config.env.kwargs = {"g": 1.5}
    config = from_json(to_json(config))
    assert build(config).make_env(0).unwrapped.g == 1.5
    config.env.kwargs = {"gravity": 1.5}
    with pytest.raises(UsageError, match="config.env.kwargs is {'gravity': 1.5}, but Pendulum-v1"):
        build(config)
    config.task = "catch"
    with pytest.raises(UsageError, match="only gym:<id> takes arguments"):
        build(config)
    with config.ignore_type():
        config.env.kwargs = 3
    with pytest.raises(UsageError, match="config.env.kwargs is 3; allowed: None or a dict"):
        build(config)
