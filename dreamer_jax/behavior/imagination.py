"""Trajectories of a policy inside the world model (Hafner et al. 2021, Section 2.2)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dreamer_jax.behavior.returns import imagination_weight
from dreamer_jax.model.distributions import PolicyDist, SampleFn
from dreamer_jax.model.ops.recurrence import cast_dense, scan
from dreamer_jax.model.rssm import img_step
from dreamer_jax.model.world_model import WorldModel
from dreamer_jax.types import Array, Params, RSSMState, Trajectory


class ImagineNoise(NamedTuple):
    """The noise of all steps of a trajectory, drawn before the scan."""

    action: Array  # [H, N, ...]
    latent: Array  # [H, N, ...]


def imagine(
    wm: WorldModel,
    params: Params,
    policy: Callable[[Array], PolicyDist],
    start: RSSMState,
    noise: ImagineNoise,
    *,
    sample: SampleFn,
) -> Trajectory:
    """Follow a policy for H steps from start states.

        state    s0          s1          s2         s0 = start
        action   0   a1 ->       a2 ->              a[t] was chosen in s[t-1] and led to s[t]

    Args:
        params: the world model's.
        policy: sg(feature [N, F]) -> action distributions [N].
        start: [N, ...].
    """

    dynamics = cast_dense(params["rssm"], wm.rssm.dtype)

    def step(state, entry):
        dist = policy(jax.lax.stop_gradient(wm.feature(state)))
        action = sample(dist, entry.action)
        state, _ = img_step(wm.rssm, dynamics, state, action, entry.latent, sample=sample)
        return state, (state, action)

    _, (states, actions) = scan(step, start, noise, unroll=wm.rssm.unroll)
    states = jax.tree.map(lambda s, rest: jnp.concatenate([s[None], rest]), start, states)
    actions = jnp.concatenate([jnp.zeros_like(actions[:1]), actions])
    return Trajectory(state=states, feat=wm.feature(states), action=actions)


def imagined_discount(
    wm: WorldModel, params: Params, feat: Array, is_terminal: Array, gamma: Array
) -> tuple[Array, Array]:
    """Return the discounts and the weights of an imagined trajectory, [H+1, N] each.

    With a discount head, the first discount is not predicted but known: gamma * (1 - is_terminal).

    Args:
        feat: [H+1, N, F].
        is_terminal: [N] bool, of the start states.
    """
    discount = wm.predict_discount(params, feat, gamma)
    if wm.discount is not None:
        first = gamma * (1 - is_terminal.astype(discount.dtype))
        discount = jnp.concatenate([first[None], discount[1:]])
    return discount, imagination_weight(discount)
