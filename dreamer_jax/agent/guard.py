"""Protection of a member's state from non-finite losses and gradients.

A member that diverges cannot affect the others, because members share nothing within an update. It
is kept at its last finite state.
"""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp

from dreamer_jax.types import STATS, Array, Metrics, MetricVector, TrainState, Update

COUNTED = "counted"  # metric: 1 if the update was taken, else 0


def is_frozen(state: TrainState, max_nonfinite: int) -> Array:
    """Return whether a member takes no further updates."""
    return state.nonfinite >= max_nonfinite


def flatten_metrics(updates: Mapping[str, Update]) -> Metrics:
    """Merge the metrics of all groups with their `<group>_loss` and `<group>_grad_norm`."""
    metrics = {}
    for group, update in updates.items():
        checked = {f"{group}_loss": update.loss, f"{group}_grad_norm": update.grad_norm}
        metrics |= update.metrics | checked
    return metrics


def keep_finite(
    old: TrainState, new: TrainState, updates: Mapping[str, Update], max_nonfinite: int
) -> tuple[TrainState, MetricVector]:
    """Take an update from `old` to `new` only if it is finite.

    That is, all its losses and gradient norms, and the statistics of standardised vectors. A
    skipped update changes only the key and the counts of updates and of skipped updates. After
    `max_nonfinite` consecutive ones the member is frozen: further updates are neither taken nor
    counted as skipped; the key and the count of updates go on.

    Returns:
        The state to continue from, and the update's metrics, zero if it was not taken. The sum of
        a metric over updates divided by the sum of the metric `counted` is its mean.
    """
    frozen = is_frozen(old, max_nonfinite)
    checked = [x for update in updates.values() for x in (update.loss, update.grad_norm)]
    # Of an observation of 1e20 the variance is infinite, though its loss is not.
    checked += [x.sum() for x in jax.tree.leaves(new.params.get(STATS, {}))]
    finite = jnp.isfinite(jnp.stack(checked)).all()
    take, skip = finite & ~frozen, ~finite & ~frozen
    kept = {
        name: jax.tree.map(partial(jnp.where, take), getattr(new, name), getattr(old, name))
        for name in ("params", "slow_critic", "opt_states")
    }
    state = new.replace(
        nonfinite=jnp.where(frozen, old.nonfinite, jnp.where(finite, 0, old.nonfinite + 1)),
        skipped=old.skipped + skip.astype(jnp.int32),
        **kept,
    )
    metrics = flatten_metrics(updates) | {COUNTED: 1.0}
    values = jnp.where(take, jnp.stack(list(metrics.values())), 0)
    return state, MetricVector(values, tuple(metrics))
