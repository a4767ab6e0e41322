"""Plan2Explore: an actor seeks states that are new to the world model (Sekar et al. 2020).

An ensemble of networks predicts the next latent from a feature and an action. Where their
predictions disagree there is something to learn; where outcomes are merely random, all converge to
the mean.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from dreamer_jax.behavior.actor_critic import ActorCritic, predicted_reward
from dreamer_jax.behavior.base import EXPLORERS, Behavior, Optimizers, Parts, PosteriorBatch
from dreamer_jax.behavior.dreamer import update_actor_critic
from dreamer_jax.model.distributions import SampleFn, UnitNormal
from dreamer_jax.model.latents import flatten_stoch
from dreamer_jax.model.networks import MLP
from dreamer_jax.model.world_model import WorldModel
from dreamer_jax.optimizer import step_group
from dreamer_jax.schema import Key, integer, number
from dreamer_jax.types import Array, Params, RSSMState, TrainState, Trajectory, Update


@dataclass(frozen=True)
class Plan2Explore(Behavior):
    """An ensemble, and an actor and a critic that learn from its disagreement.

    There is no slow critic, as in DreamerV1, on which Plan2Explore was built.
    """

    ac: ActorCritic
    ensemble: MLP  # network of one model: [feature, action] -> flattened latent
    models: int  # K, at least 2
    intrinsic: float  # weight of the disagreement
    extrinsic: float  # weight of the task's reward

    groups = ("ensemble", "expl_actor", "expl_critic")

    def init(self, keys: Sequence[Array], feat: Array) -> dict[str, Params]:
        ensemble_key, *keys = keys
        inputs = jnp.concatenate([feat, jnp.zeros((1, self.ac.action_size))], -1)
        ensemble = jax.vmap(lambda key: self.ensemble.init(key, inputs)["params"])(
            jax.random.split(ensemble_key, self.models)
        )
        actor, critic = self.ac.init(keys, feat)
        return {"ensemble": ensemble, "expl_actor": actor, "expl_critic": critic}

    def act(
        self, wm: WorldModel, params: Params, state: RSSMState, key: Array, *, sample: SampleFn
    ) -> Array:
        return self.ac.choose(params["expl_actor"], wm.feature(state), key, sample=sample)

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
        grad_fn = jax.value_and_grad(lambda params: ensemble_loss(self, wm, params, replayed))
        loss, grads = grad_fn(state.params["ensemble"])
        state, norm = step_group(optimizers, state, "ensemble", grads, state.hypers.model_lr)
        ensemble = state.params["ensemble"]

        def reward_fn(wm: WorldModel, params: Params, trajectory: Trajectory) -> Array:
            novelty = self.intrinsic * disagreement(self, ensemble, trajectory)
            return novelty + self.extrinsic * predicted_reward(wm, params, trajectory)

        state, updates = update_actor_critic(
            self.ac,
            wm,
            optimizers,
            state,
            state.params["expl_critic"],
            replayed,
            key,
            sample=sample,
            reward_fn=reward_fn,
            prefix="expl_",
        )
        return state, {"ensemble": Update(loss, norm, {}), **updates}


@EXPLORERS.register(
    "plan2explore",
    {
        "expl.models": Key(10, integer(2), "plan2explore: K, models in the ensemble"),
        "expl.layers": Key(4, integer(0), "plan2explore: hidden layers of each model"),
        "expl.units": Key(400, integer(1), "plan2explore: units of each hidden layer"),
        "expl.intrinsic": Key(1.0, number(), "plan2explore: weight of the disagreement"),
        "expl.extrinsic": Key(0.0, number(), "plan2explore: weight of the task's reward"),
    },
)
def make_plan2explore(parts: Parts, *, layers: int, units: int, **settings) -> Plan2Explore:
    ensemble = parts.make_mlp(layers, units, parts.latent_size)
    return Plan2Explore(ac=parts.make_actor_critic(), ensemble=ensemble, **settings)


def predict(explorer: Plan2Explore, ensemble: Params, feat: Array, action: Array) -> Array:
    """Return every model's prediction [K, ..., S] of the latent that an action leads to."""
    inputs = jnp.concatenate([feat, action], -1)
    return jax.vmap(lambda params: explorer.ensemble.apply({"params": params}, inputs))(ensemble)


def ensemble_loss(
    explorer: Plan2Explore, wm: WorldModel, ensemble: Params, replayed: PosteriorBatch
) -> Array:
    """Return -ln N(z[t+1]; prediction, 1), summed over models, mean over steps within episodes.

    feat     s0      s1      s2
    action   -     a1      a2         a[t+1] was taken in s[t]
    target           z1      z2
    """
    states = replayed.states
    means = predict(explorer, ensemble, wm.feature(states)[:, :-1], replayed.action[:, 1:])
    target = flatten_stoch(wm.rssm.latent, states.stoch)[:, 1:]
    likes = UnitNormal(means, 1).log_prob(jnp.broadcast_to(target, means.shape))  # [K, B, T-1]
    within = 1 - replayed.is_first[:, 1:].astype(likes.dtype)
    return -(likes.sum(0) * within).sum() / jnp.maximum(within.sum(), 1)


def disagreement(explorer: Plan2Explore, ensemble: Params, trajectory: Trajectory) -> Array:
    """Return the variance over models, mean over the latent (Sekar et al. 2020, Eq. 1).

    Entry t of the result [H+1, N] is about state t: the reward for reaching it. Nothing predicted
    the start state; it gets the entry of its successor.
    """
    means = predict(explorer, ensemble, trajectory.feat[:-1], trajectory.action[1:])
    reached = means.var(0, ddof=1).mean(-1)
    return jnp.concatenate([reached[:1], reached])
