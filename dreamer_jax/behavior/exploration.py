"""Noise on the actions that are taken in training (Hafner et al. 2020, Appendix A)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from dreamer_jax.behavior.returns import linear_schedule
from dreamer_jax.model.distributions import FactoredOneHot
from dreamer_jax.schema import Registry
from dreamer_jax.types import ActionSpec, Array

DrawFn = Callable[[Array, tuple[int, ...]], Array]  # key, shape [..., A] -> random actions
# (actions [..., A], key=, amount=scalar, draw=DrawFn, **values of its own keys) -> actions [..., A]
NoiseFn = Callable[..., Array]

NOISES: Registry[NoiseFn] = Registry()
CONTINUOUS_ONLY = {"normal"}  # noises whose results are not one-hot


@NOISES.register("none")
def no_noise(action: Array, **_) -> Array:
    """Return the policy's actions."""
    return action


@NOISES.register("normal")
def additive_normal(action: Array, *, key: Array, amount: Array, **_) -> Array:
    """Return clip(action + amount * normal noise, -1, 1)."""
    return jnp.clip(action + amount * jax.random.normal(key, action.shape), -1, 1)


@NOISES.register("epsilon_greedy")
def epsilon_greedy(action: Array, *, key: Array, amount: Array, draw: DrawFn) -> Array:
    """Replace each action by a random one with probability `amount`."""
    choose_key, draw_key = jax.random.split(key)
    chosen = jax.random.uniform(choose_key, (*action.shape[:-1], 1)) < amount
    return jnp.where(chosen, draw(draw_key, action.shape), action)


@NOISES.register("random")
def random_actions(action: Array, *, key: Array, draw: DrawFn, **_) -> Array:
    """Return random actions in place of the policy's."""
    return draw(key, action.shape)


def draw_onehot(key: Array, shape: tuple[int, ...]) -> Array:
    """Return equally likely one-hot actions [..., A]."""
    return jax.nn.one_hot(jax.random.randint(key, shape[:-1], 0, shape[-1]), shape[-1])


def draw_factors(key: Array, shape: tuple[int, ...], *, factors: tuple[int, ...]) -> Array:
    """Return actions [..., A] whose factors are each one-hot and equally likely."""
    uniform = FactoredOneHot(jnp.zeros(shape), factors)
    return uniform.sample_from(jax.random.uniform(key, (*shape[:-1], len(factors))))


def draw_uniform(key: Array, shape: tuple[int, ...]) -> Array:
    """Return uniform actions [..., A] in [-1, 1)."""
    return jax.random.uniform(key, shape, minval=-1, maxval=1)


def random_draw(action: ActionSpec) -> DrawFn:
    """Return the function that draws uniformly random actions of a normalised space."""
    if action.factors:
        return partial(draw_factors, factors=action.factors)
    return draw_onehot if action.discrete else draw_uniform


@dataclass(frozen=True)
class Exploration:
    """Noise whose amount is annealed from `start` to `final` within a number of updates."""

    noise: NoiseFn
    draw: DrawFn
    start: float  # standard deviation, or probability
    final: float
    updates: int

    def __call__(self, action: Array, key: Array, update: Array) -> Array:
        """Add noise to actions [..., A], after a number of updates."""
        amount = linear_schedule(self.start, self.final, self.updates, update)
        return self.noise(action, key=key, amount=amount, draw=self.draw)
