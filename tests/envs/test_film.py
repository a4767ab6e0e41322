"""Frames of environments whose observations hold no image."""

import functools

import gymnasium
import numpy as np
import pytest
from conftest import SHALLOW, make_tiny_config
from gymnasium import spaces

from dreamer_jax import evaluate, train
from dreamer_jax.envs import env_maker
from dreamer_jax.envs.catch import Catch
from dreamer_jax.envs.film import filmed
from dreamer_jax.errors import UsageError


class Blind(Catch):
    """Catch without images; `render()` returns or raises what it is told."""

    def __init__(self, seed=0, frame=None):
        super().__init__()
        self.observation_space = spaces.Box(0, 8, (2,), np.float32)
        self._given = frame

    def _image(self):
        return np.array([self._ball, self._paddle], np.float32)

    def render(self):
        if isinstance(self._given, Exception):
            raise self._given
        return self._given


def make(frame):
    return env_maker(functools.partial(Blind, frame=frame))


def test_frames_of_first_episodes_are_what_render_returns():
    frame = np.full((10, 12, 3), 7, np.uint8)
    maker = filmed(make(frame), 3, {4})
    plain, env = make(frame)(3), maker(3)
    assert env.observation_space["render"].shape == (10, 12, 3)
    found, expected = env.reset()[0], plain.reset()[0]
    assert np.array_equal(found["vector"], expected["vector"])  # filming changes no episode
    assert np.array_equal(found["render"], frame)
    assert np.array_equal(env.step(0)[0]["render"], frame)
    assert not maker(4).reset()[0]["render"].any()


def test_a_frame_that_fails_later_is_black():
    frame = np.full((10, 12, 3), 7, np.uint8)
    env = filmed(make(frame), 3, ())(3)
    env.unwrapped._given = RuntimeError("the window is closed")
    assert not env.reset()[0]["render"].any()


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (None, "returns NoneType"),
        ("text", "returns str"),
        (np.zeros((4, 4, 3)), "returns ndarray"),
        (LookupError("no display"), "ing raises LookupError: no display"),
    ],
)
def test_without_anything_to_show_the_video_is_refused(frame, reason):
    with pytest.raises(UsageError, match=f"no video can be made: .*render.*{reason}; allowed"):
        filmed(make(frame), 3, ())


class Unrenderable(gymnasium.Env):
    """An environment that takes no render_mode, with an image or without one."""

    metadata = {"render_modes": ["rgb_array"]}
    action_space = spaces.Discrete(2)

    def __init__(self, sides=(64, 64, 3)):
        self.observation_space = spaces.Box(0, 255, sides, np.uint8)


gymnasium.register("Unrenderable-v0", Unrenderable)
gymnasium.register("Unseen-v0", Unrenderable, kwargs={"sides": (4,)})


def test_environments_that_take_no_render_mode():
    maker = env_maker("gym:Unrenderable-v0")
    assert filmed(maker, 3, ()) is maker
    with pytest.raises(UsageError, match="no image, and rendering raises TypeError: .*render_mode"):
        filmed(env_maker("gym:Unseen-v0"), 3, ())


def test_images_are_filmed_as_they_are():
    maker = env_maker("catch")
    assert filmed(maker, 3, ()) is maker
    pytest.importorskip("pygame")
    gym = filmed(env_maker("gym:CartPole-v1"), 3, ())  # pygame is asked for images
    assert gym(3).reset()[0]["render"].any()


@pytest.mark.slow
def test_a_video_of_an_evaluation(tmp_path):
    config = make_tiny_config(steps=60, eval_episodes=0, seeds=2, **SHALLOW)
    make_env = functools.partial(Blind, frame=np.full((64, 64, 3), 7, np.uint8))
    train(config, tmp_path / "run", make_env)
    plain, found = (
        evaluate(tmp_path / "run", episodes=2, video=video, make_env=make_env)
        for video in (False, True)
    )
    assert found["members"] == plain["members"]
    assert [path.rpartition("/")[2] for path in found["videos"]] == [
        f"eval_000000060_member{member}.gif" for member in range(2)
    ]
