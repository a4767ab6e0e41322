"""PlaNet: actions are planned inside the world model, without a policy (Hafner et al. 2019)."""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from dreamer_jax.behavior.base import BEHAVIORS, Behavior, Parts
from dreamer_jax.errors import UsageError
from dreamer_jax.model.distributions import SampleFn, from_noise
from dreamer_jax.model.rssm import img_step
from dreamer_jax.model.world_model import WorldModel
from dreamer_jax.schema import Key, integer
from dreamer_jax.types import Array, Params, RSSMState


@dataclass(frozen=True)
class CEM:
    """The cross-entropy method: fits a normal to the best of its own samples, repeatedly."""

    horizon: int  # H, steps of a plan
    iterations: int
    candidates: int  # C, plans per iteration
    elites: int  # best candidates, which the normal is fitted to

    def __call__(
        self, score: Callable[[Array, Array], Array], key: Array, action_size: int
    ) -> Array:
        """Search for the plan with the highest score (Hafner et al. 2019, Algorithm 2).

        The search begins with independent standard normals. Plans are clipped to [-1, 1]; those
        with a score of NaN rank last.

        Args:
            score: (plans [H, C, A], key) -> scores [C].

        Returns:
            [H, A], the mean of the last fit.
        """

        def iterate(belief, key):
            mean, std = belief
            plan_key, score_key = jax.random.split(key)
            noise = jax.random.normal(plan_key, (self.horizon, self.candidates, action_size))
            plans = jnp.clip(mean[:, None] + std[:, None] * noise, -1, 1)
            scores = score(plans, score_key)
            # NaN sorts above all numbers: a rollout that diverged would always be an elite.
            scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
            _, best = jax.lax.top_k(scores, self.elites)
            elites = plans[:, best]
            return (elites.mean(1), elites.std(1)), None

        shape = (self.horizon, action_size)
        start = jnp.zeros(shape), jnp.ones(shape)
        (mean, _), _ = jax.lax.scan(iterate, start, jax.random.split(key, self.iterations))
        return mean


@dataclass(frozen=True)
class Planner(Behavior):
    """Model-predictive control: takes the first action of the best plan.

    Only the world model learns.
    """

    cem: CEM

    def act(
        self, wm: WorldModel, params: Params, state: RSSMState, key: Array, *, sample: SampleFn
    ) -> Array:
        """Return the first actions of new plans; `sample` is not used."""
        keys = jax.random.split(key, state.deter.shape[0])

        def plan(state, key):
            def score(plans, key):
                return imagined_reward(wm, params["model"], state, plans, key)

            return self.cem(score, key, wm.rssm.action_size)[0]

        return jax.vmap(plan)(state, keys)


@BEHAVIORS.register(
    "planet",
    {
        "planet.horizon": Key(12, integer(1), "steps of a plan"),
        "planet.iterations": Key(10, integer(1), "iterations of the cross-entropy method"),
        "planet.candidates": Key(1000, integer(1), "plans per iteration"),
        "planet.elites": Key(
            100, integer(2), "best plans of an iteration, which the next normal is fitted to"
        ),
    },
)
def make_planner(parts: Parts, **settings: int) -> Planner:
    if parts.action.discrete:
        raise UsageError(
            f"config.behavior is 'planet', which plans continuous actions, but the environment's "
            f"{parts.action.size} actions are discrete; allowed: dreamer."
        )
    return Planner(CEM(**settings))


def imagined_reward(
    wm: WorldModel, params: Params, state: RSSMState, plans: Array, key: Array
) -> Array:
    """Return the sums [C] of the rewards predicted along one sampled trajectory per plan.

    Args:
        params: the world model's.
        state: [...], of one environment.
        plans: [H, C, A].
    """
    horizon, candidates, _ = plans.shape
    start = jax.tree.map(lambda x: jnp.broadcast_to(x, (candidates, *x.shape)), state)
    noise = wm.rssm.latent.noise(key, (horizon, candidates))

    def step(state, entry):
        action, noise = entry
        state, _ = img_step(wm.rssm, params["rssm"], state, action, noise, sample=from_noise)
        return state, wm.feature(state)

    _, feat = jax.lax.scan(step, start, (plans, noise))
    return wm.predict_reward(params, feat).sum(0)
