"""Environments that are JAX programs and need no image networks, which take long to compile."""

import jax.numpy as jnp
import numpy as np
from gymnasium import spaces

from dreamer_jax.envs.jax_env.catch import JaxCatch


class JaxPlaces(JaxCatch):
    """Catch that observes the places of ball and paddle."""

    def __init__(self):
        super().__init__()
        self.observation_space = spaces.Box(0, 8, (3,), np.float32)

    def reset(self, key):
        state, _ = super().reset(key)
        return state, jnp.stack(state).astype(jnp.float32)

    def step(self, key, state, action):
        state, _, *results = super().step(key, state, action)
        return state, jnp.stack(state).astype(jnp.float32), *results


PLACES = JaxPlaces()
