"""The world model: encoder, RSSM, predictors, and their joint loss (Hafner et al. 2021, Eq. 2)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dreamer_jax.model import rssm as rssm_lib
from dreamer_jax.model.distributions import SampleFn, bernoulli, from_noise, unit_normal
from dreamer_jax.model.networks import MLP, Encoder
from dreamer_jax.model.objectives import Objective
from dreamer_jax.model.rssm import RSSM
from dreamer_jax.types import Array, Batch, Hypers, LatentStats, Metrics, Params, RSSMState

REWARD_TRANSFORMS: dict[str, Callable[[Array], Array]] = {
    "none": lambda reward: reward,
    "sign": jnp.sign,
    "tanh": jnp.tanh,
}


@dataclass(frozen=True)
class WorldModel:
    """The parts, as modules and functions; parameters are a dict with the parts' names."""

    encoder: Encoder
    rssm: RSSM
    objective: Objective
    reward: MLP
    discount: MLP | None  # None: no discount head, gamma everywhere
    reward_transform: Callable[[Array], Array]
    loss_scales: Mapping[str, float]  # of each likelihood by key; 1 where absent
    kl_loss: Callable[..., tuple[Array, Array]]  # one of kl.KL_LOSSES
    free_avg: bool
    grad_heads: frozenset[str]  # of 'observation', 'reward', 'discount': those that train states

    def embed(self, params: Params, obs: Mapping[str, Array]) -> Array:
        """Prepared observations [...] -> embedding [..., X]."""
        return self.encoder.apply({"params": params["encoder"]}, obs)

    def feature(self, state: RSSMState) -> Array:
        """State [...] -> feature [..., F]."""
        return rssm_lib.feature(self.rssm.latent, state)

    def decode(self, params: Params, feat: Array) -> dict[str, Array]:
        """Feature [..., F] -> means of the observation entries; empty without a decoder."""
        return self.objective.decode(params, feat)

    def predict_reward(self, params: Params, feat: Array) -> Array:
        """Feature [..., F] -> mean transformed reward [...]."""
        return self.reward.apply({"params": params["reward"]}, feat)[..., 0]

    def predict_discount(self, params: Params, feat: Array, gamma: Array) -> Array:
        """Feature [..., F] -> expected discount [...] in [0, 1]; gamma without a head."""
        if self.discount is None:
            return jnp.full(feat.shape[:-1], gamma)
        return jax.nn.sigmoid(self.discount_logits(params, feat))

    def discount_logits(self, params: Params, feat: Array) -> Array:
        """Feature [..., F] -> Bernoulli logits [...]."""
        return self.discount.apply({"params": params["discount"]}, feat)[..., 0]


class WorldModelOutput(NamedTuple):
    """Outcome of the loss that behaviour learning and the next sequence start from."""

    states: RSSMState  # [B, T, ...] posterior
    prior: LatentStats  # [B, T, ...]
    posterior: LatentStats  # [B, T, ...]
    likes: dict[str, Array]  # [B, T] log-likelihoods by key
    kl: Array  # [B, T] nats


def init_world_model(wm: WorldModel, key: Array, obs: Mapping[str, Array]) -> Params:
    """Initial parameters. Args: obs: prepared observations [1, ...] of the right shapes."""
    parts = ("encoder", "rssm", "objective", "reward", "discount")
    keys = dict(zip(parts, jax.random.split(key, len(parts)), strict=True))
    params = {"encoder": wm.encoder.init(keys["encoder"], obs)["params"]}
    embed = wm.embed(params, obs)
    action = jnp.zeros((1, wm.rssm.action_size))
    params["rssm"] = wm.rssm.init(keys["rssm"], action, embed, method="init_all")["params"]
    feat = wm.feature(wm.rssm.initial((1,)))
    params |= wm.objective.init(keys["objective"], feat, obs)
    params["reward"] = wm.reward.init(keys["reward"], feat)["params"]
    if wm.discount is not None:
        params["discount"] = wm.discount.init(keys["discount"], feat)["params"]
    return params


def prepare_obs(obs: Mapping[str, Array]) -> dict[str, Array]:
    """uint8 entries (images) to floats in [-0.5, 0.5]; float entries (vectors) unchanged."""
    return {
        key: value.astype(jnp.float32) / 255 - 0.5 if value.dtype == jnp.uint8 else value
        for key, value in obs.items()
    }


def prepare_action(action: Array, size: int) -> Array:
    """Indices [...] to one-hot [..., size] (index -1: zeros); float actions unchanged."""
    if jnp.issubdtype(action.dtype, jnp.integer):
        return jax.nn.one_hot(action, size)
    return action


def world_model_loss(
    wm: WorldModel,
    params: Params,
    batch: Batch,
    noise: Array,
    start: RSSMState,
    hypers: Hypers,
    *,
    sample: SampleFn = from_noise,
) -> tuple[Array, tuple[WorldModelOutput, Metrics]]:
    """Negative evidence lower bound, mean over batch and time (Eq. 2).

    loss = sum_k scale_k * -ln p_k + beta * KL balance. The reward is predicted after its
    transform, the discount as the soft label gamma * (1 - is_terminal): a time limit is last but
    not terminal. Heads that are not in `grad_heads` learn from states without training them.

    Args:
        batch: [B, T, ...] with raw observations; noise: [T, B, ...] for the posterior samples.
        start: [B, ...] state before the sequences.

    Returns:
        The scalar loss, what was filtered, and scalar metrics.
    """
    obs = prepare_obs(batch.obs)
    action = prepare_action(batch.action, wm.rssm.action_size)
    embed = wm.embed(params, obs)
    states, posterior, prior = rssm_lib.observe(
        wm.rssm, params["rssm"], embed, action, batch.is_first, noise, start, sample=sample
    )
    feat = wm.feature(states)

    def read(head: str) -> Array:
        return feat if head in wm.grad_heads else jax.lax.stop_gradient(feat)

    likes = wm.objective.likes(params, read("observation"), obs)
    reward = wm.reward_transform(batch.reward)
    predicted = wm.predict_reward(params, read("reward"))
    likes["reward"] = unit_normal(predicted, 0).log_prob(reward)
    if wm.discount is not None:
        target = hypers.discount * (1 - batch.is_terminal.astype(jnp.float32))
        logits = wm.discount_logits(params, read("discount"))
        likes["discount"] = bernoulli(logits).log_prob(target)
    kl_value, kl = wm.kl_loss(
        wm.rssm.latent,
        posterior,
        prior,
        balance=hypers.kl_balance,
        free_nats=hypers.free_nats,
        free_avg=wm.free_avg,
    )
    losses = {f"{key}_loss": -like.mean() for key, like in likes.items()}
    loss = hypers.kl_scale * kl_value
    loss += sum(wm.loss_scales.get(key, 1.0) * losses[f"{key}_loss"] for key in likes)
    metrics = losses | {
        "model_loss": loss,
        "kl_loss": kl_value,
        "kl": kl.mean(),
        "prior_entropy": wm.rssm.latent.dist(prior).entropy().mean(),
        "posterior_entropy": wm.rssm.latent.dist(posterior).entropy().mean(),
    }
    return loss, (WorldModelOutput(states, prior, posterior, likes, kl), metrics)
