"""Activations whose derivative is a function of their value, so that gradients need no input."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from dreamer_jax.types import Array


@dataclass(frozen=True)
class Activation:
    """An elementwise function [...] -> [...], called like one."""

    apply: Callable[[Array], Array]
    slope: Callable[[Array], Array]  # value [...] -> derivative [...] at that value

    def __call__(self, x: Array) -> Array:
        return self.apply(x)


LINEAR = Activation(lambda x: x, jnp.ones_like)
ACTIVATIONS = {
    "elu": Activation(jax.nn.elu, lambda y: jnp.where(y > 0, 1, y + 1).astype(y.dtype)),
    "relu": Activation(jax.nn.relu, lambda y: (y > 0).astype(y.dtype)),
}
