"""Frames for videos of environments whose observations hold no image: what `render()` draws."""

import contextlib
from collections.abc import Collection
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.envs.registry import MakeEnv, with_rendering
from dreamer_jax.errors import UsageError

FRAME = "render"  # the entry of the observation that holds the frame


def filmed(make_env: MakeEnv, seed: int, unseen: Collection[int]) -> MakeEnv:
    """Return a maker of environments whose observations hold an image to film.

    Args:
        make_env: as made by `env_maker`. It is returned if its observations hold an image already.
        seed: one to try it with.
        unseen: seeds of environments that need not be rendered.

    Raises:
        UsageError: there is no image, and `render()` returns none.
    """
    with contextlib.closing(make_env(seed)) as env:
        if any(space.dtype == np.uint8 for space in env.observation_space.values()):
            return make_env
    rendering = with_rendering(make_env)
    try:
        with contextlib.closing(rendering(seed)) as env:
            env.reset()
            shape = _render(env).shape
    except UsageError:
        raise
    except Exception as error:
        raise _no_frame(f"rendering raises {type(error).__name__}: {error}") from error
    return partial(_make_filmed, rendering, shape, frozenset(unseen))


def _make_filmed(
    make_env: MakeEnv, shape: tuple[int, ...], unseen: Collection[int], seed: int
) -> gymnasium.Env:
    return _Filmed(make_env(seed), shape, renders=seed not in unseen)


class _Filmed(gymnasium.Wrapper):
    """Adds a frame to every observation; it is black where none can be drawn."""

    def __init__(self, env: gymnasium.Env, shape: tuple[int, ...], *, renders: bool):
        super().__init__(env)
        self._shape, self._renders = shape, renders
        frame = spaces.Box(0, 255, shape, np.uint8)
        self.observation_space = spaces.Dict({**env.observation_space, FRAME: frame})

    def reset(self, **arguments: Any) -> tuple[dict, dict]:
        obs, info = self.env.reset(**arguments)
        return {**obs, FRAME: self._frame()}, info

    def step(self, action: Any) -> tuple[dict, float, bool, bool, dict]:
        obs, *rest = self.env.step(action)
        return {**obs, FRAME: self._frame()}, *rest

    def _frame(self) -> np.ndarray:
        if self._renders:
            try:
                frame = _render(self.env)
                if frame.shape == self._shape:
                    return frame
            except Exception:
                pass  # an evaluation must not fail because of its video
        return np.zeros(self._shape, np.uint8)


def _render(env: gymnasium.Env) -> np.ndarray:
    frame = env.render()
    if not isinstance(frame, np.ndarray) or frame.ndim != 3 or frame.dtype != np.uint8:
        raise _no_frame(f"render() returns {type(frame).__name__}")
    return frame


def _no_frame(reason: str) -> UsageError:
    return UsageError(
        f"no video can be made: the observations hold no image, and {reason}; allowed: an "
        "environment with render_mode='rgb_array', whose render() returns uint8 [H, W, 3]"
    )
