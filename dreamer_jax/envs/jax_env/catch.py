"""Catch as a JAX program: the pixels and the law of `envs.catch`."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.envs.catch import (
    BALL,
    CELL_HEIGHT,
    CELL_WIDTH,
    COLUMNS,
    LEFT_MARGIN,
    PADDLE,
    ROWS,
    SIZE,
    Catch,
)
from dreamer_jax.envs.jax_env.protocol import JaxEnv, register_jax_task
from dreamer_jax.envs.registry import EnvSettings, refuse_variant
from dreamer_jax.types import Array

# The cell of every pixel along both axes; the margins belong to none.
ROW_OF = np.arange(SIZE) // CELL_HEIGHT
COLUMN_OF = (np.arange(SIZE) - LEFT_MARGIN) // CELL_WIDTH


class CatchState(NamedTuple):
    """The places of the ball and of the paddle; scalars, int32."""

    row: Array
    ball: Array
    paddle: Array


class JaxCatch:
    """See `envs.catch.Catch`."""

    def __init__(self) -> None:
        host = Catch()
        self.observation_space, self.action_space = host.observation_space, host.action_space

    def reset(self, key: Array) -> tuple[CatchState, Array]:
        ball, paddle = jax.random.randint(key, (2,), 0, COLUMNS)
        state = CatchState(jnp.zeros((), jnp.int32), ball, paddle)
        return state, _image(state)

    def step(
        self, key: Array, state: CatchState, action: Array
    ) -> tuple[CatchState, Array, Array, Array, Array]:
        """Move the paddle, then let the ball fall by one row."""
        paddle = jnp.clip(state.paddle + action - 1, 0, COLUMNS - 1)
        state = CatchState(state.row + 1, state.ball, paddle)
        terminated = state.row == ROWS - 1
        caught = jnp.where(state.ball == paddle, 1.0, -1.0)
        reward = jnp.where(terminated, caught, 0.0)
        return state, _image(state), reward, terminated, jnp.zeros((), bool)


def _image(state: CatchState) -> Array:
    def cell(row, column):
        return (ROW_OF == row)[:, None] & (COLUMN_OF == column)[None, :]

    image = jnp.where(cell(ROWS - 1, state.paddle), PADDLE, 0)
    image = jnp.where(cell(state.row, state.ball), BALL, image)
    return image.astype(jnp.uint8)[..., None]


@register_jax_task("catch")
def make_jax_catch(variant: str, settings: EnvSettings) -> JaxEnv:
    refuse_variant("catch", variant)
    return JaxCatch()
