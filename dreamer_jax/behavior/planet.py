"""PlaNet's behaviour: no policy is learned, actions are planned inside the world model
(Hafner et al. 2019, Algorithm 2)."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from dreamer_jax.behavior.base import Optimizers, PosteriorBatch
from dreamer_jax.model.distributions import SampleFn, from_noise
from dreamer_jax.model.rssm import img_step
from dreamer_jax.model.world_model import WorldModel
from dreamer_jax.types import Array, Params, RSSMState, TrainState, Update


@dataclass(frozen=True)
class CEM:
    """The cross-entropy method: a normal is fitted to the best of its own samples, repeatedly."""

    horizon: int  # H, steps of a plan
    iterations: int
    candidates: int  # C, plans per iteration
    elites: int  # of them that the normal is fitted to

    def __call__(
        self, score: Callable[[Array, Array], Array], key: Array, action_size: int
    ) -> Array:
        """Search for the plan with the highest score.

        Begins with independent standard normals; plans are clipped to [-1, 1]. A plan whose score
        is NaN is the worst.

        Args:
            score: (plans [H, C, A], key) -> [C].

        Returns:
            [H, A], the mean of the last fit.
        """
        shape = (self.horizon, action_size)

        def iterate(belief, key):
            mean, std = belief
            plan_key, score_key = jax.random.split(key)
            noise = jax.random.normal(plan_key, (self.horizon, self.candidates, action_size))
            plans = jnp.clip(mean[:, None] + std[:, None] * noise, -1, 1)
            scores = score(plans, score_key)
            # NaN sorts above all numbers: one diverged rollout would be an elite of every fit.
            ranked = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
            _, best = jax.lax.top_k(ranked, self.elites)
            elites = plans[:, best]
            return (elites.mean(1), elites.std(1)), None

        start = jnp.zeros(shape), jnp.ones(shape)
        (mean, _), _ = jax.lax.scan(iterate, start, jax.random.split(key, self.iterations))
        return mean


@dataclass(frozen=True)
class Planner:
    """Takes the first action of the plan with the highest sum of predicted rewards; nothing is
    learned beside the world model."""

    cem: CEM

    groups = ()

    def init(self, keys: Sequence[Array], feat: Array, action: Array) -> dict[str, Params]:
        del keys, feat, action
        return {}

    def act(
        self,
        wm: WorldModel,
        params: Mapping[str, Params],
        state: RSSMState,
        key: Array,
        *,
        sample: SampleFn,
    ) -> Array:
        """`sample` has no effect: the action is the mean of the last fit."""
        del sample
        keys = jax.random.split(key, state.deter.shape[0])

        def plan(state, key):
            def score(plans, key):
                return imagined_reward(wm, params["model"], state, plans, key)

            return self.cem(score, key, wm.rssm.action_size)[0]

        return jax.vmap(plan)(state, keys)

    def learn(
        self,
        wm: WorldModel,
        optimizers: Optimizers,
        state: TrainState,
        replayed: PosteriorBatch,
        key: Array,
        *,
        sample: SampleFn,
    ) -> tuple[TrainState, dict[str, Update]]:
        del wm, optimizers, replayed, key, sample
        return state, {}


def imagined_reward(
    wm: WorldModel, params: Params, state: RSSMState, plans: Array, key: Array
) -> Array:
    """Sum of the rewards that the world model predicts along plans, one sampled rollout of each.

    Args:
        params: of the world model; state: [...] of one environment; plans: [H, C, A].

    Returns:
        [C].
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
