"""Tests of the choice of a renderer, and of the message if none works."""

import pytest

from dreamer_jax.envs import make_env, rendering
from dreamer_jax.envs.rendering import choose_renderer, failure, no_renderer
from dreamer_jax.errors import UsageError


@pytest.fixture(autouse=True)
def nothing_is_known(monkeypatch):
    """Forget which renderers were tried before and after each test."""
    monkeypatch.setenv("MUJOCO_GL", "")  # so that changes below are undone
    monkeypatch.delenv("MUJOCO_GL")
    failure.cache_clear()
    yield
    failure.cache_clear()


@pytest.mark.parametrize(
    ("drawing", "chosen"),
    [({"egl", "osmesa"}, "egl"), ({"osmesa"}, "osmesa"), (set(), "disable")],
)
def test_the_first_renderer_that_draws_is_chosen(drawing, chosen, monkeypatch):
    monkeypatch.setattr(rendering, "failure", lambda name: None if name in drawing else "broken")
    choose_renderer()
    assert rendering.os.environ["MUJOCO_GL"] == chosen


def test_an_empty_request_is_none(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "")  # as dm_control reads it
    monkeypatch.setattr(rendering, "failure", lambda name: None)
    choose_renderer()
    assert rendering.os.environ["MUJOCO_GL"] == "egl"


def test_a_requested_renderer_is_kept(monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    monkeypatch.setattr(rendering, "failure", lambda name: pytest.fail("was tried"))
    choose_renderer()
    assert rendering.os.environ["MUJOCO_GL"] == "glfw"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("pass", None),
        ("import os, sys; sys.exit('no ' + os.environ['MUJOCO_GL'])", "no osmesa"),
        ("import os; os._exit(3)", "exit status 3"),
        ("import time; time.sleep(60)", "no picture in 1 seconds"),
    ],
)
def test_a_renderer_is_tried_in_a_separate_process(program, reason, monkeypatch):
    monkeypatch.setattr(rendering, "DRAW", program)
    monkeypatch.setattr(rendering, "SECONDS", 1)
    assert failure("osmesa") == reason


def test_no_renderer_says_what_was_tried_and_what_to_install(monkeypatch):
    monkeypatch.setattr(rendering, "failure", lambda name: f"{name} is not there")
    choose_renderer()
    message = str(no_renderer(RuntimeError("unseen")))
    for part in (
        "egl: egl is not there; osmesa: osmesa is not there",
        "libegl1 and libgl1-mesa-dri",
        "libosmesa6",
        "dmc_proprio:<domain>_<task>",
    ):
        assert part in message
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    assert "MUJOCO_GL=glfw: no display" in str(no_renderer(RuntimeError("no display")))


# Packages


@pytest.mark.parametrize(
    ("task", "package", "extra"),
    [
        ("dmc:walker_walk", "dm_control", "dmc"),
        ("dmc_proprio:walker_walk", "dm_control", "dmc"),
        ("crafter", "crafter", "crafter"),
        ("minigrid:MiniGrid-Empty-5x5-v0", "minigrid", "minigrid"),
    ],
)
def test_a_missing_package_is_named_with_its_extra(task, package, extra, monkeypatch):
    monkeypatch.setitem(rendering.sys.modules, package, None)
    message = f"the package {package} is not installed: pip install 'dreamer-jax\\[{extra}\\]'"
    with pytest.raises(UsageError, match=message):
        make_env(task, 0)
