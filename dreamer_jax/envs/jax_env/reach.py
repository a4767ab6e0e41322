"""Reach as a JAX program: the pixels and the law of `envs.reach`, in float32."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dreamer_jax.envs.jax_env.protocol import JaxEnv, register_jax_task
from dreamer_jax.envs.reach import (
    BACKGROUND,
    HIGH,
    LOW,
    PIXELS,
    REACH,
    SPEED,
    STEPS,
    TARGET,
    WIDTH,
    Reach,
)
from dreamer_jax.envs.registry import EnvSettings, refuse_variant
from dreamer_jax.types import Array


class ReachState(NamedTuple):
    """The dot's centre, float32 [2] (x, y), and the number of steps taken."""

    dot: Array
    step: Array


class JaxReach:
    """See `envs.reach.Reach`."""

    def __init__(self) -> None:
        host = Reach()
        self.observation_space, self.action_space = host.observation_space, host.action_space

    def reset(self, key: Array) -> tuple[ReachState, Array]:
        dot = jax.random.randint(key, (2,), LOW, HIGH + 1).astype(jnp.float32)
        return ReachState(dot, jnp.zeros((), jnp.int32)), _image(dot)

    def step(
        self, key: Array, state: ReachState, action: Array
    ) -> tuple[ReachState, Array, Array, Array, Array]:
        dot = jnp.clip(state.dot + SPEED * jnp.clip(action, -1.0, 1.0), LOW, HIGH)
        state = ReachState(dot, state.step + 1)
        distance = jnp.hypot(*(dot - jnp.array(TARGET)))
        reward = jnp.maximum(0.0, 1.0 - distance / REACH)
        return state, _image(dot), reward, jnp.zeros((), bool), state.step == STEPS


def _image(dot: Array) -> Array:
    target, moving = _spot(jnp.array(TARGET)), _spot(dot)
    return jnp.stack([target, moving, moving], -1)


def _spot(center: Array) -> Array:
    """Return one channel [64, 64], white at the centre and fading to the background."""
    offsets = jnp.asarray(PIXELS, jnp.float32)[None] - center[:, None]
    across, down = jnp.exp(-0.5 * (offsets / WIDTH) ** 2)
    spot = BACKGROUND + (255 - BACKGROUND) * down[:, None] * across[None, :]
    return jnp.rint(spot).astype(jnp.uint8)


@register_jax_task("reach")
def make_jax_reach(variant: str, settings: EnvSettings) -> JaxEnv:
    refuse_variant("reach", variant)
    return JaxReach()
