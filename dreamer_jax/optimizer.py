"""The optimizer of DreamerV2, as an optax transformation (Hafner et al. 2021, Appendix D).

gradients -> global-norm clip -> Adam with 'epsilon hat' -> -lr * step - decay * weights.
"""

from collections.abc import Mapping
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from dreamer_jax.types import Array, Params, TrainState


class AdamHatState(NamedTuple):
    """Moments of the gradients and the number of updates."""

    count: Array  # int32
    mu: Params  # first moment
    nu: Params  # second moment


def scale_by_adam_hat(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Return Adam with epsilon added before the bias correction.

    step = sqrt(1 - b2^t) / (1 - b1^t) * m / (sqrt(v) + eps): 'epsilon hat' of Kingma & Ba 2015,
    Section 2. `optax.adam` adds epsilon after the correction, which makes it smaller in the first
    updates. b1 and b2 are the decay rates of the moments m and v.

    The moments and their correction must use the same 1 - b in float32: 1 - 0.999 is 9.9998713e-4
    there, but 0.001 rounds to 1.0000000e-3, and where one of them is used beside the other every
    step is short by 6.5e-6.
    """
    b1, b2 = np.float32(b1), np.float32(b2)

    def init(params: Params) -> AdamHatState:
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AdamHatState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(grads, state, params=None):
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: m + (1 - b1) * (g - m), state.mu, grads)
        nu = jax.tree.map(lambda v, g: v + (1 - b2) * (g * g - v), state.nu, grads)
        time = count.astype(jnp.float32)
        correction = jnp.sqrt(1 - b2**time) / (1 - b1**time)
        steps = jax.tree.map(lambda m, v: correction * m / (jnp.sqrt(v) + eps), mu, nu)
        return steps, AdamHatState(count, mu, nu)

    return optax.GradientTransformation(init, update)


def make_optimizer(
    *, clip: float, eps: float, decay: float
) -> optax.GradientTransformationExtraArgs:
    """Return the optimizer: clip by global norm, epsilon-hat Adam, decoupled weight decay.

    Its `update` takes `lr` as an extra argument, so that members may differ in it. The decay is
    `weights *= 1 - decay`, independent of the learning rate, and applies to all weights. The state
    holds the moments of all weights as one vector each: on an accelerator, a norm and a step of
    each parameter on its own are some 200 kernels an update.

    Args:
        clip: largest global norm of the gradient.
        eps: Adam's epsilon hat.
        decay: share of the weights that an update removes, in [0, 1).
    """
    core = optax.chain(optax.clip_by_global_norm(clip), scale_by_adam_hat(0.9, 0.999, eps))

    def init(params):
        return core.init(ravel_pytree(params)[0])

    def update(grads, state, params, *, lr):
        flat, unravel = ravel_pytree(grads)
        flat, state = core.update(flat, state)
        return jax.tree.map(lambda s, p: -lr * s - decay * p, unravel(flat), params), state

    return optax.GradientTransformationExtraArgs(init, update)


def apply_gradients(
    optimizer: optax.GradientTransformationExtraArgs,
    grads: Params,
    state: optax.OptState,
    params: Params,
    lr: Array | float,
) -> tuple[Params, optax.OptState, Array]:
    """Return the new parameters, the optimizer state, and the gradient's norm before the clip."""
    chex.assert_trees_all_equal_structs(grads, params)
    norm = optax.tree.norm(ravel_pytree(grads)[0])  # the same operations as those of the clip
    updates, state = optimizer.update(grads, state, params, lr=lr)
    return optax.apply_updates(params, updates), state, norm


def step_group(
    optimizers: Mapping[str, optax.GradientTransformationExtraArgs],
    state: TrainState,
    group: str,
    grads: Params,
    lr: Array,
) -> tuple[TrainState, Array]:
    """Update one parameter group of a state; also return the gradient's norm before the clip."""
    params, opt_state, norm = apply_gradients(
        optimizers[group], grads, state.opt_states[group], state.params[group], lr
    )
    params = {**state.params, group: params}
    opt_states = {**state.opt_states, group: opt_state}
    return state.replace(params=params, opt_states=opt_states), norm
