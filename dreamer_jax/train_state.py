"""All that an update changes, in one pytree."""

from collections.abc import Mapping

import jax
import optax
from flax import struct

from dreamer_jax.optimizer import apply_gradients
from dreamer_jax.types import Array, Hypers, Params


@struct.dataclass
class TrainState:
    """One member's learning state; stacked over members every leaf has a leading axis M."""

    params: Mapping[str, Params]  # one entry per group: `model` and the behaviours'
    slow_critic: Params  # empty without a critic
    opt_states: Mapping[str, optax.OptState]  # one entry per group
    hypers: Hypers
    key: Array  # typed PRNG key, split at every update
    update: Array  # int32, updates made, skipped ones included
    skipped: Array  # int32, updates not taken because something was not finite
    nonfinite: Array  # int32, how many of these in a row


def step_group(
    optimizers: Mapping[str, optax.GradientTransformationExtraArgs],
    state: TrainState,
    group: str,
    grads: Params,
    lr: Array,
) -> tuple[TrainState, Array]:
    """Step one parameter group. Returns: the new state and the gradient norm before the clip."""
    params, opt_state, norm = apply_gradients(
        optimizers[group], grads, state.opt_states[group], state.params[group], lr
    )
    state = state.replace(
        params={**state.params, group: params},
        opt_states={**state.opt_states, group: opt_state},
    )
    return state, norm


def count_parameters(params: Params) -> int:
    """Number of scalars in a tree of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
