"""Normalisation of environments that are JAX programs, by the same rules as `envs.adapt`."""

import functools
from collections.abc import Callable
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from dreamer_jax.envs.actions import adapt_action
from dreamer_jax.envs.jax_env.protocol import JaxEnv, State
from dreamer_jax.envs.observations import (
    Leaf,
    Reader,
    check_box,
    check_parts,
    grid_shape,
    holds_bytes,
    parts_of,
    to_picture,
)
from dreamer_jax.envs.registry import EnvSettings
from dreamer_jax.errors import UsageError
from dreamer_jax.types import Array

Obs = dict[str, Array]  # images uint8 [size, size, C], grids bool [H, W, C], vectors float32 [V]


class AdaptedEnv:
    """A JaxEnv with normalised spaces, a time limit and an action repeat.

    Observations are read, and actions rescaled, as `envs.adapt` does. Shapes and types are checked
    here, once; values are not, since a compiled program cannot raise: a member whose rewards are
    not finite is skipped and frozen like one whose losses are not.

    Args:
        env: the environment.
        settings: the size of images, the patterns of what to read as images, vectors and grids,
            the action repeat, and the time limit in frames.

    Attributes:
        observation_space, action_space: normalised.
        readings: by entry of the observation, how it is read and why.

    Raises:
        UsageError: a space is not supported, or what the functions return is not as declared.
    """

    def __init__(self, env: JaxEnv, settings: EnvSettings):
        self.unwrapped = env
        self._repeat = settings.action_repeat
        self._limit = settings.time_limit
        patterns = settings.images, settings.vectors, settings.grids
        self._reader = Reader(env.observation_space, settings.size, *patterns)
        self.observation_space, self.readings = self._reader.space, self._reader.readings
        self._read = {leaf.key: _reading(leaf, settings.size) for leaf in self._reader.leaves}
        self.action_space, _ = adapt_action(env.action_space)
        self._act = _acting(env.action_space)
        self._state: Any = jax.eval_shape(env.reset, jax.random.key(0))[0]
        self._check()

    def reset(self, key: Array) -> tuple[State, Obs]:
        state, obs = self.unwrapped.reset(key)
        return (self._settled(state), jnp.zeros((), jnp.int32)), self._observe(obs)

    def step(
        self, key: Array, state: State, action: Array
    ) -> tuple[State, Obs, Array, Array, Array]:
        action = self._act(action)
        result = self._frame(key, state, action)
        if self._repeat == 1:
            return result

        def repeat(frame: Array, before: tuple) -> tuple:
            after = self._frame(jax.random.fold_in(key, frame), before[0], action)
            after = (*after[:2], before[2] + after[2], *after[3:])
            is_last = before[3] | before[4]
            return jax.tree.map(functools.partial(jnp.where, is_last), before, after)

        return jax.lax.fori_loop(1, self._repeat, repeat, result)

    def _frame(self, key: Array, state: State, action: Array) -> tuple:
        inner, frames = state
        inner, obs, reward, terminated, truncated = self.unwrapped.step(key, inner, action)
        frames = frames + 1
        terminated, truncated = (_scalar(x, bool) for x in (terminated, truncated))
        if self._limit:
            truncated |= frames >= self._limit
        state = self._settled(inner), frames
        return state, self._observe(obs), _scalar(reward, jnp.float32), terminated, truncated

    def _observe(self, obs: Any) -> Obs:
        entries = {}
        for leaf in self._reader.leaves:
            try:
                value = functools.reduce(lambda x, name: x[name], leaf.path, obs)
            except (KeyError, IndexError, TypeError) as error:
                raise UsageError(f"observation {leaf.key!r} is missing: {error!r}") from error
            try:
                entries[leaf.key] = self._read[leaf.key](value)
            except ValueError as error:  # of checks that are shared with `envs.adapt`
                raise UsageError(str(error)) from error
        return entries

    def _settled(self, state: State) -> State:
        """Return a state whose arrays have the types of the first one, as a loop requires."""
        if jax.tree.structure(state) != jax.tree.structure(self._state):
            raise UsageError("the states that reset and step return differ in structure")
        return jax.tree.map(_as, state, self._state)

    def _check(self) -> None:
        """Trace both functions, which checks all shapes."""
        key, action = jax.random.key(0), self.action_space.sample()
        try:
            state, _ = jax.eval_shape(self.reset, key)
            jax.eval_shape(self.step, key, state, action)
        except UsageError:
            raise
        except Exception as error:
            name = type(self.unwrapped).__name__
            raise UsageError(
                f"{name} is no environment of pure JAX functions, reset(key) and step(key, state, "
                f"action): {type(error).__name__}: {error}"
            ) from error


def _as(value: Any, like: jax.ShapeDtypeStruct) -> Array:
    if jnp.shape(value) != like.shape:
        raise UsageError(
            f"an array of the state has the shape {jnp.shape(value)} after a step, and "
            f"{like.shape} after a reset; both must be the same"
        )
    if jax.dtypes.issubdtype(like.dtype, jax.dtypes.prng_key):
        return value
    return jax.lax.convert_element_type(value, like.dtype)  # also if it was weakly typed


def _scalar(value: Any, dtype: Any) -> Array:
    value = jnp.asarray(value)
    if value.size != 1:
        raise UsageError(f"a step returned an array {value.shape} where a scalar is expected")
    return value.reshape(()).astype(dtype)


def _reading(leaf: Leaf, size: int) -> Callable[[Any], Array]:
    """Return the function that normalises one entry of the observation."""
    if leaf.image is not None:
        return functools.partial(_read_image, leaf, size)
    if leaf.is_grid:
        shape = grid_shape(leaf.space)
        return lambda value: (_checked(leaf.key, leaf.space, value) != 0).reshape(shape)
    return _vector(leaf.key, leaf.space)


def _vector(key: str, space: spaces.Space) -> Callable[[Any], Array]:
    """Return the function from a value of a space to a vector, float32 [V]."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        parts = {name: _vector(f"{key}/{name}", part) for name, part in parts_of(space)}

        def join(value: Any) -> Array:
            check_parts(f"observation {key!r}", space, value)
            return jnp.concatenate([part(value[name]) for name, part in parts.items()])

        return join
    check = functools.partial(_checked, key, space)
    if isinstance(space, (spaces.Box, spaces.MultiBinary)):
        return lambda value: check(value).reshape(-1).astype(jnp.float32)
    if isinstance(space, spaces.Discrete):
        return lambda value: jax.nn.one_hot(check(value) - space.start, int(space.n))
    if isinstance(space, spaces.MultiDiscrete):
        choices = np.asarray(space.nvec).reshape(-1)
        starts = np.asarray(space.start).reshape(-1)
        return lambda value: jnp.concatenate(
            [
                jax.nn.one_hot(index - start, n)
                for index, start, n in zip(check(value).reshape(-1), starts, choices, strict=True)
            ]
        )
    raise UsageError(
        f"observation {key!r} is a {type(space).__name__}; allowed in a JAX environment: Box, "
        "Discrete, MultiDiscrete, MultiBinary, and Dict or Tuple of these"
    )


def _checked(key: str, space: spaces.Space, value: Any, *, is_image: bool = False) -> Array:
    """Return an array whose shape and type are those that a space declares."""
    value = jnp.asarray(value)
    if isinstance(space, spaces.Box):
        check_box(key, space, value, is_image=is_image)
    elif value.shape != space.shape or value.dtype.kind not in "iub":
        raise UsageError(
            f"observation {key!r} is {value.dtype} {list(value.shape)}; its space declares "
            f"integers {list(space.shape)}"
        )
    return value


def _read_image(leaf: Leaf, size: int, value: Any) -> Array:
    value = _checked(leaf.key, leaf.space, value, is_image=True)
    if not holds_bytes(leaf):
        low, high = leaf.image.low, leaf.image.high
        value = 255 * jnp.clip((value.astype(jnp.float32) - low) / (high - low), 0, 1)
        value = jnp.rint(value).astype(jnp.uint8)
    image = to_picture(leaf.image, value)
    height, width, _ = image.shape
    if (height, width) == (size, size):
        return image
    down, across = _resizing(height, size), _resizing(width, size)
    exact = jax.lax.Precision.HIGHEST
    resized = jnp.einsum("yh,xw,hwc->yxc", down, across, image.astype(jnp.float32), precision=exact)
    return jnp.rint(resized).astype(jnp.uint8)


def _resizing(length: int, size: int) -> np.ndarray:
    """Return the weights [size, length] by which OpenCV resizes an axis by area."""
    return cv2.resize(
        np.eye(length, dtype=np.float32), (length, size), interpolation=cv2.INTER_AREA
    )


def _acting(space: spaces.Space) -> Callable[[Array], Array]:
    """Return the function from a normalised action to one of `space`."""
    if isinstance(space, spaces.Discrete):
        return lambda action: action.astype(jnp.int32) + int(space.start)
    if isinstance(space, spaces.MultiDiscrete):
        starts = np.asarray(space.start, np.int32)
        return lambda action: action.astype(jnp.int32).reshape(space.shape) + starts
    if isinstance(space, spaces.Box) and space.dtype.kind == "f":
        low, high = np.float32(space.low), np.float32(space.high)
        return lambda action: jnp.clip(
            low + (action.reshape(space.shape) + 1.0) / 2.0 * (high - low), low, high
        )
    raise UsageError(
        f"action space {space} is not supported in a JAX environment; allowed: Discrete, "
        "MultiDiscrete, or a Box of floats"
    )
