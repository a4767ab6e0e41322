"""Actor and critic, trained on imagined trajectories (Hafner et al. 2021, Eqs. 3 to 6)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dreamer_jax.behavior.imagination import ImagineNoise, imagine, imagined_discount
from dreamer_jax.behavior.returns import ReturnFn, linear_schedule
from dreamer_jax.model.distributions import (
    FactoredOneHot,
    OneHot,
    PolicyDist,
    SampleFn,
    TanhNormal,
    TruncatedNormal,
)
from dreamer_jax.model.latents import Latent
from dreamer_jax.model.networks import MLP
from dreamer_jax.model.world_model import WorldModel
from dreamer_jax.types import Array, Hypers, Metrics, Params, RSSMState, Trajectory


@dataclass(frozen=True)
class Policy:
    """A family of action distributions."""

    discrete: bool
    outputs_per_action: int
    make_dist: Callable[[Array], PolicyDist]  # network output [..., O] -> distribution [...]
    noise: Callable[[Array, tuple[int, ...], int], Array]  # key, shape, A -> noise of samples


def _truncated_normal(out: Array) -> TruncatedNormal:
    """Return the truncated normal of loc = tanh(out), scale = 2 sigmoid(out / 2) + 0.1."""
    loc, scale = jnp.split(out, 2, -1)
    return TruncatedNormal(jnp.tanh(loc), 2 * jax.nn.sigmoid(scale / 2) + 0.1)


def tanh_normal(out: Array, *, raw_std: float, min_std: float) -> TanhNormal:
    """Return tanh of a normal with mean = 5 tanh(out / 5), std = softplus(out + raw_std) + min_std.

    The factor of 5 lets actions saturate while the mean stays bounded (Hafner et al. 2020, App. A).
    """
    mean, std = jnp.split(out, 2, -1)
    return TanhNormal(5 * jnp.tanh(mean / 5), jax.nn.softplus(std + raw_std) + min_std)


INITIAL_STD = 5.0  # before tanh, for network outputs of zero

POLICIES = {
    "onehot": Policy(True, 1, OneHot, lambda key, shape, size: jax.random.uniform(key, shape)),
    "trunc_normal": Policy(
        False,
        2,
        _truncated_normal,
        lambda key, shape, size: jax.random.uniform(key, (*shape, size)),
    ),
    # A large initial std puts actions near -1 and 1 at first: the exploration of DreamerV1.
    "tanh_normal": Policy(
        False,
        2,
        partial(tanh_normal, raw_std=math.log(math.expm1(INITIAL_STD)), min_std=1e-4),
        lambda key, shape, size: jax.random.normal(key, (*shape, size)),
    ),
}


def factored_policy(factors: tuple[int, ...]) -> Policy:
    """Return the policies of a factored action: an independent categorical per factor."""
    return Policy(
        True,
        1,
        partial(FactoredOneHot, factors=factors),
        lambda key, shape, size: jax.random.uniform(key, (*shape, len(factors))),
    )


class ActorGrad(NamedTuple):
    """An estimator of the actor's gradient."""

    through_dynamics: bool  # whether the gradient passes through the rollout itself
    objective: Callable[..., Array]  # (log_prob, advantage, target, mix) -> [H-1, N]


ACTOR_GRADS = {
    "reinforce": ActorGrad(False, lambda log_prob, advantage, target, mix: log_prob * advantage),
    "dynamics": ActorGrad(True, lambda log_prob, advantage, target, mix: target),
    "both": ActorGrad(
        True,
        lambda log_prob, advantage, target, mix: mix * target + (1 - mix) * log_prob * advantage,
    ),
}


@dataclass(frozen=True)
class ActorCritic:
    """The networks of an actor and a critic, and how they learn."""

    actor: MLP
    critic: MLP
    policy: Policy
    actor_grad: ActorGrad
    returns: ReturnFn
    horizon: int  # H, imagined steps
    action_size: int

    def init(self, keys: Sequence[Array], feat: Array) -> tuple[Params, Params]:
        """Return the initial parameters of actor and critic, from two keys and a feature [1, F]."""
        actor_key, critic_key = keys
        actor = self.actor.init(actor_key, feat)["params"]
        return actor, self.critic.init(critic_key, feat)["params"]

    def act(self, params: Params, feat: Array) -> PolicyDist:
        """Return the actor's action distributions [...] for features [..., F]."""
        return self.policy.make_dist(self.actor.apply({"params": params}, feat))

    def choose(self, params: Params, feat: Array, key: Array, *, sample: SampleFn) -> Array:
        """Return the actor's actions [..., A] for features [..., F]."""
        noise = self.policy.noise(key, feat.shape[:-1], self.action_size)
        return sample(self.act(params, feat), noise)

    def value(self, params: Params, feat: Array) -> Array:
        """Return the critic's values [...] of features [..., F]."""
        return self.critic.apply({"params": params}, feat)[..., 0]

    def draw_noise(self, key: Array, latent: Latent, starts: int) -> ImagineNoise:
        """Return the noise of a rollout from N = `starts` states."""
        action_key, latent_key = jax.random.split(key)
        shape = (self.horizon, starts)
        return ImagineNoise(
            action=self.policy.noise(action_key, shape, self.action_size),
            latent=latent.noise(latent_key, shape),
        )


# (world model, its parameters, trajectory) -> rewards [H+1, N] for reaching each state
RewardFn = Callable[[WorldModel, Params, Trajectory], Array]


def predicted_reward(wm: WorldModel, params: Params, trajectory: Trajectory) -> Array:
    """Return the rewards [H+1, N] that the world model predicts along a trajectory."""
    return wm.predict_reward(params, trajectory.feat)


class Rollout(NamedTuple):
    """An imagined trajectory and its evaluation, for the losses; gradients flow through it."""

    trajectory: Trajectory
    reward: Array  # [H+1, N], after the transform
    discount: Array  # [H+1, N]
    weight: Array  # [H+1, N]
    slow_value: Array  # [H+1, N], of the slow critic
    target: Array  # [H, N], returns


def imagine_rollout(
    ac: ActorCritic,
    wm: WorldModel,
    wm_params: Params,
    actor_params: Params,
    slow_critic: Params,
    start: RSSMState,
    is_terminal: Array,
    noise: ImagineNoise,
    hypers: Hypers,
    *,
    sample: SampleFn,
    reward_fn: RewardFn = predicted_reward,
) -> Rollout:
    """Imagine trajectories of the actor and evaluate them with the slow critic.

        feat       s0  s1  ...  s[H-1]  s[H]
        reward     r0  r1  ...  r[H-1]  r[H]       r[t] is the reward for reaching s[t]; r[H] is
                                                   used by `reward_sum` alone
        target     V0  V1  ...  V[H-1]  bootstrap v[H]

    Args:
        start, is_terminal: [N, ...] and [N] bool, the start states and whether each is terminal.
        noise: [H, N, ...].
        hypers: discount and lambda are used.
    """
    trajectory = imagine(
        wm, wm_params, lambda feat: ac.act(actor_params, feat), start, noise, sample=sample
    )
    feat = trajectory.feat
    reward = reward_fn(wm, wm_params, trajectory)
    discount, weight = imagined_discount(wm, wm_params, feat, is_terminal, hypers.discount)
    value = ac.value(slow_critic, feat)
    target = ac.returns(reward, value=value, discount=discount, lambda_=hypers.lambda_)
    return Rollout(trajectory, reward, discount, weight, value, target)


def actor_loss(
    ac: ActorCritic, actor_params: Params, rollout: Rollout, hypers: Hypers, update: Array
) -> tuple[Array, Metrics]:
    """Return -mean(weight * (objective + eta * entropy)), Hafner et al. 2021, Eq. 6.

        state s[t]             s0   s1  ...  s[H-2]     feat[:-2], where the policy is evaluated
        action chosen there    a1   a2  ...  a[H-1]     action[1:-1]
        its return             V1   V2  ...  V[H-1]     target[1:]

    The objective is log pi(a[t+1] | s[t]) * sg(V[t+1] - v_slow(s[t])) for `reinforce`, V[t+1] for
    `dynamics`, and their mix for `both`. As in the original, continuous actions keep their gradient
    inside log pi.

    Args:
        hypers: the entropy weight and the mix are used, both annealed.
        update: scalar, number of updates made.

    Returns:
        The loss and the metrics, all scalars.
    """
    sg = jax.lax.stop_gradient
    feat, action = rollout.trajectory.feat, rollout.trajectory.action
    policy = ac.act(actor_params, sg(feat[:-2]))
    log_prob = policy.log_prob(action[1:-1])
    advantage = sg(rollout.target[1:] - rollout.slow_value[:-2])
    anneal = hypers.anneal_updates
    scale = linear_schedule(hypers.actor_entropy, hypers.actor_entropy_final, anneal, update)
    mix = linear_schedule(hypers.actor_grad_mix, hypers.actor_grad_mix_final, anneal, update)
    entropy = policy.entropy()
    objective = ac.actor_grad.objective(log_prob, advantage, rollout.target[1:], mix)
    loss = -(rollout.weight[:-2] * (objective + scale * entropy)).mean()
    return loss, {
        "actor_entropy": entropy.mean(),
        "actor_entropy_scale": scale,
        "actor_grad_mix": mix,
        "critic_slow": rollout.slow_value.mean(),
        "critic_target": rollout.target.mean(),
        "imagined_reward": rollout.reward.mean(),
        "imagined_reward_std": rollout.reward.std(),
    }


def critic_loss(ac: ActorCritic, critic_params: Params, rollout: Rollout) -> tuple[Array, Metrics]:
    """Return mean(weight * 0.5 (v(s) - sg(V))^2) over s0 ... s[H-1], Hafner et al. 2021, Eq. 5."""
    sg = jax.lax.stop_gradient
    value = ac.value(critic_params, sg(rollout.trajectory.feat[:-1]))
    # The constant of a unit normal's log-likelihood makes losses comparable with the original's.
    error = 0.5 * (value - sg(rollout.target)) ** 2 + 0.5 * jnp.log(2 * jnp.pi)
    loss = (rollout.weight[:-1] * error).mean()
    return loss, {"critic": value.mean()}
