"""All that an update changes, in one pytree."""

from collections.abc import Mapping

import jax
import optax
from flax import struct

from dreamer_jax.types import Array, Hypers, Params

# One parameter group per optimizer.
GROUPS = ("model", "actor", "critic")


@struct.dataclass
class TrainState:
    """One member's learning state; stacked over members every leaf has a leading axis M."""

    params: Mapping[str, Params]  # one entry per group
    slow_critic: Params
    opt_states: Mapping[str, optax.OptState]  # one entry per group
    hypers: Hypers
    key: Array  # typed PRNG key, split at every update
    update: Array  # int32, updates made, skipped ones included
    skipped: Array  # int32, updates not taken because something was not finite
    nonfinite: Array  # int32, how many of these in a row


def count_parameters(params: Params) -> int:
    """Number of scalars in a tree of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
