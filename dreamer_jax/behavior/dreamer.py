"""Dreamer: actor and critic learn from imagined trajectories (Hafner et al. 2021, Sec. 2.2)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp

from dreamer_jax.behavior.actor_critic import (
    ActorCritic,
    RewardFn,
    actor_loss,
    critic_loss,
    imagine_rollout,
    predicted_reward,
)
from dreamer_jax.behavior.base import BEHAVIORS, Behavior, Optimizers, Parts, PosteriorBatch
from dreamer_jax.behavior.imagination import imagine
from dreamer_jax.model.distributions import SampleFn, from_noise
from dreamer_jax.model.ops.recurrence import cast_dense
from dreamer_jax.model.world_model import WorldModel
from dreamer_jax.optimizer import step_group
from dreamer_jax.schema import Key, integer
from dreamer_jax.types import Array, Metrics, Params, RSSMState, TrainState, Trajectory, Update


@dataclass(frozen=True)
class Dreamer(Behavior):
    """An actor and a critic that learn from the rewards that the world model predicts."""

    ac: ActorCritic
    slow_critic_every: int  # updates between copies of the critic; 1: the critic is its own target

    groups = ("actor", "critic")

    def init(self, keys: Sequence[Array], feat: Array) -> dict[str, Params]:
        return dict(zip(self.groups, self.ac.init(keys, feat), strict=True))

    def act(
        self, wm: WorldModel, params: Params, state: RSSMState, key: Array, *, sample: SampleFn
    ) -> Array:
        return self.ac.choose(params["actor"], wm.feature(state), key, sample=sample)

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
        state, updates = update_actor_critic(
            self.ac, wm, optimizers, state, state.slow_critic, replayed, key, sample=sample
        )
        # A hard copy after the first update, and every `slow_critic_every` updates from there.
        copy = state.update % self.slow_critic_every == 0
        slow_critic = jax.tree.map(
            lambda new, old: jnp.where(copy, new, old), state.params["critic"], state.slow_critic
        )
        return state.replace(slow_critic=slow_critic), updates

    def value(self, wm: WorldModel, params: Params, state: RSSMState) -> Array:
        return self.ac.value(params["critic"], wm.feature(state))

    def imagine(
        self, wm: WorldModel, params: Params, start: RSSMState, key: Array, steps: int
    ) -> Trajectory:
        ac = replace(self.ac, horizon=steps)
        noise = ac.draw_noise(key, wm.rssm.latent, start.deter.shape[0])
        policy = partial(ac.act, params["actor"])
        return imagine(wm, params["model"], policy, start, noise, sample=from_noise)


@BEHAVIORS.register(
    "dreamer",
    {
        "slow_critic_every": Key(
            100, integer(1), "updates between copies of the critic to the slow critic"
        )
    },
)
def make_dreamer(parts: Parts, *, slow_critic_every: int) -> Dreamer:
    return Dreamer(parts.make_actor_critic(), slow_critic_every)


def update_actor_critic(
    ac: ActorCritic,
    wm: WorldModel,
    optimizers: Optimizers,
    state: TrainState,
    slow_critic: Params,
    replayed: PosteriorBatch,
    key: Array,
    *,
    sample: SampleFn,
    reward_fn: RewardFn = predicted_reward,
    prefix: str = "",
) -> tuple[TrainState, dict[str, Update]]:
    """Update an actor and a critic on one rollout, imagined from every replayed state.

    Args:
        slow_critic: parameters of the critic that evaluates the rollout.
        prefix: begins the names of the two groups and of all metrics.

    Returns:
        The new state, and an `Update` of each group.
    """
    hypers, actor, critic = state.hypers, f"{prefix}actor", f"{prefix}critic"
    starts, is_terminal = replayed.starts()
    noise = ac.draw_noise(key, wm.rssm.latent, is_terminal.shape[0])

    def imagined(actor_params):
        return imagine_rollout(
            ac,
            wm,
            state.params["model"],
            actor_params,
            slow_critic,
            starts,
            is_terminal,
            noise,
            hypers,
            sample=sample,
            reward_fn=reward_fn,
        )

    # Reinforce needs no gradient through the rollout: imagined here, outside of the differentiated
    # function, its H steps keep no residuals.
    frozen = cast_dense(state.params[actor], ac.actor.dtype)
    outside = None if ac.actor_grad.through_dynamics else imagined(frozen)

    @partial(jax.value_and_grad, has_aux=True)
    def actor_grad_fn(actor_params):
        rollout = imagined(actor_params) if outside is None else outside
        loss, metrics = actor_loss(ac, actor_params, rollout, hypers, state.update)
        return loss, (rollout, metrics)

    (loss, (rollout, metrics)), grads = actor_grad_fn(state.params[actor])
    critic_grad_fn = jax.value_and_grad(lambda p: critic_loss(ac, p, rollout), has_aux=True)
    (critic_value, critic_metrics), critic_grads = critic_grad_fn(state.params[critic])
    state, norm = step_group(optimizers, state, actor, grads, hypers.actor_lr)
    state, critic_norm = step_group(optimizers, state, critic, critic_grads, hypers.critic_lr)

    def prefixed(metrics: Metrics) -> Metrics:
        return {prefix + name: value for name, value in metrics.items()}

    return state, {
        actor: Update(loss, norm, prefixed(metrics)),
        critic: Update(critic_value, critic_norm, prefixed(critic_metrics)),
    }
