"""Keeps a member whose losses or gradients are not finite from spoiling its own state.

Members share nothing inside of an update, so a member that diverges never reaches the others; here
it is also held at its last finite state.
"""

import jax
import jax.numpy as jnp

from dreamer_jax.types import Array, Metrics, TrainState

CHECKED = ("loss", "grad_norm")  # metrics of every parameter group, as in `actor_loss`
COUNTED = "counted"  # metric: 1 where the update was taken


def is_frozen(state: TrainState, max_nonfinite: int) -> Array:
    """Whether a member has been given up."""
    return state.nonfinite >= max_nonfinite


def keep_finite(
    old: TrainState, new: TrainState, metrics: Metrics, max_nonfinite: int
) -> tuple[TrainState, Metrics]:
    """Take an update only if every loss and every gradient norm is finite.

    A skipped update changes nothing but the key, the number of the update and the counts of
    skipped updates; after `max_nonfinite` in a row the member is frozen, and no update is taken
    or counted any more.

    Args:
        old: before the update; new: after it; metrics: of it, scalars.

    Returns:
        The state to go on with, and the metrics, zero where the update was skipped, with
        `counted`: sums of these over updates divided by the sum of `counted` are means.
    """
    frozen = is_frozen(old, max_nonfinite)
    checked = [metrics[f"{group}_{value}"] for group in old.params for value in CHECKED]
    finite = jnp.isfinite(jnp.stack(checked)).all()
    take, skip = finite & ~frozen, ~finite & ~frozen
    learned = ("params", "slow_critic", "opt_states")
    kept = {
        name: jax.tree.map(
            lambda a, b: jnp.where(take, a, b), getattr(new, name), getattr(old, name)
        )
        for name in learned
    }
    state = new.replace(
        nonfinite=jnp.where(frozen, old.nonfinite, jnp.where(finite, 0, old.nonfinite + 1)),
        skipped=old.skipped + skip.astype(jnp.int32),
        **kept,
    )
    metrics = {name: jnp.where(take, value, 0) for name, value in metrics.items()}
    return state, metrics | {COUNTED: take.astype(jnp.float32)}
