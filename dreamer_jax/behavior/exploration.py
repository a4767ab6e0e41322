"""Noise on actions that are taken in training (Hafner et al. 2020, Appendix A)."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from dreamer_jax.behavior.returns import linear_schedule
from dreamer_jax.types import Array

DrawFn = Callable[[Array, tuple[int, ...]], Array]  # key, shape [..., A] -> random actions
# (actions [..., A], key, amount, random actions) -> actions [..., A]
NoiseFn = Callable[[Array, Array, Array, DrawFn], Array]


def no_noise(action: Array, key: Array, amount: Array, draw: DrawFn) -> Array:
    """The policy's own actions."""
    del key, amount, draw
    return action


def additive_normal(action: Array, key: Array, amount: Array, draw: DrawFn) -> Array:
    """clip(a + amount * noise, -1, 1): for continuous actions."""
    del draw
    return jnp.clip(action + amount * jax.random.normal(key, action.shape), -1, 1)


def epsilon_greedy(action: Array, key: Array, amount: Array, draw: DrawFn) -> Array:
    """With probability `amount` a random action instead of the policy's."""
    choose_key, draw_key = jax.random.split(key)
    chosen = jax.random.uniform(choose_key, (*action.shape[:-1], 1)) < amount
    return jnp.where(chosen, draw(draw_key, action.shape), action)


def random_actions(action: Array, key: Array, amount: Array, draw: DrawFn) -> Array:
    """Random actions only."""
    del amount
    return draw(key, action.shape)


NOISES: dict[str, NoiseFn] = {
    "none": no_noise,
    "normal": additive_normal,
    "epsilon_greedy": epsilon_greedy,
    "random": random_actions,
}
CONTINUOUS_ONLY = ("normal",)


def draw_onehot(key: Array, shape: tuple[int, ...]) -> Array:
    """Equally likely one-hot actions [..., A]."""
    return jax.nn.one_hot(jax.random.randint(key, shape[:-1], 0, shape[-1]), shape[-1])


def draw_uniform(key: Array, shape: tuple[int, ...]) -> Array:
    """Uniform actions in [-1, 1), [..., A]."""
    return jax.random.uniform(key, shape, minval=-1, maxval=1)


@dataclass(frozen=True)
class Exploration:
    """A kind of noise whose amount goes linearly from `start` to `final` over `updates` updates."""

    noise: NoiseFn
    draw: DrawFn
    start: float  # standard deviation, or probability
    final: float
    updates: int

    def __call__(self, action: Array, key: Array, update: Array) -> Array:
        """Args: action: [..., A]; update: scalar count of updates made. Returns: [..., A]."""
        amount = linear_schedule(self.start, self.final, self.updates, update)
        return self.noise(action, key, amount, self.draw)
