"""The world model: encoder, RSSM, predictors, and their joint loss (Hafner et al. 2021, Eq. 2)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp

from dreamer_jax.model import rssm as rssm_lib
from dreamer_jax.model.distributions import SampleFn, UnitNormal, bernoulli, from_noise
from dreamer_jax.model.networks import MLP, Encoder
from dreamer_jax.model.objectives import Objective
from dreamer_jax.model.rssm import RSSM
from dreamer_jax.types import Array, Batch, Hypers, Metrics, Params, RSSMState

REWARD_TRANSFORMS: dict[str, Callable[[Array], Array]] = {
    "none": lambda reward: reward,
    "sign": jnp.sign,
    "tanh": jnp.tanh,
}


@dataclass(frozen=True)
class WorldModel:
    """The parts as modules and functions; their parameters are a dict by part."""

    encoder: Encoder
    rssm: RSSM
    objective: Objective
    reward: MLP
    discount: MLP | None  # None: no discount head, gamma everywhere
    reward_transform: Callable[[Array], Array]
    loss_scales: Mapping[str, float]  # weight of each log-likelihood by key; 1 if absent
    kl_loss: Callable[..., tuple[Array, Array]]  # one of kl.KL_LOSSES
    free_avg: bool
    grad_heads: frozenset[str]  # those of 'observation', 'reward', 'discount' that train states
    factors: tuple[int, ...] = ()  # choices of each factor of a factored action

    def embed(self, params: Params, obs: Mapping[str, Array]) -> Array:
        """Embed prepared observations [...] as [..., X]."""
        return self.encoder.apply({"params": params["encoder"]}, obs)

    def feature(self, state: RSSMState) -> Array:
        """Return the features [..., F] of states [...]."""
        return rssm_lib.feature(self.rssm.latent, state)

    def decode(self, params: Params, feat: Array) -> dict[str, Array]:
        """Map features [..., F] to means of observation entries; empty without a decoder."""
        return self.objective.decode(params, feat)

    def predict_reward(self, params: Params, feat: Array) -> Array:
        """Map features [..., F] to mean transformed rewards [...]."""
        return self.reward.apply({"params": params["reward"]}, feat)[..., 0]

    def predict_discount(self, params: Params, feat: Array, gamma: Array) -> Array:
        """Map features [..., F] to expected discounts [...] in [0, 1]; gamma without a head."""
        if self.discount is None:
            return jnp.full(feat.shape[:-1], gamma)
        return jax.nn.sigmoid(self.discount_logits(params, feat))

    def discount_logits(self, params: Params, feat: Array) -> Array:
        """Map features [..., F] to Bernoulli logits [...] of the discount."""
        return self.discount.apply({"params": params["discount"]}, feat)[..., 0]


def init_world_model(wm: WorldModel, key: Array, obs: Mapping[str, Array]) -> Params:
    """Return initial parameters by part, given a prepared observation [1, ...]."""
    encoder_key, rssm_key, objective_key, reward_key, discount_key = jax.random.split(key, 5)
    params = {"encoder": wm.encoder.init(encoder_key, obs)["params"]}
    embed = wm.embed(params, obs)
    action = jnp.zeros((1, wm.rssm.action_size))
    params["rssm"] = wm.rssm.init(rssm_key, action, embed, method="init_all")["params"]
    feat = wm.feature(wm.rssm.initial((1,)))
    params |= wm.objective.init(objective_key, feat, obs)
    params["reward"] = wm.reward.init(reward_key, feat)["params"]
    if wm.discount is not None:
        params["discount"] = wm.discount.init(discount_key, feat)["params"]
    return params


def prepare_obs(obs: Mapping[str, Array]) -> dict[str, Array]:
    """Map uint8 (images) to floats in [-0.5, 0.5], bool (grids) to 0 and 1; keep floats."""

    def prepare(value: Array) -> Array:
        if value.dtype == jnp.uint8:
            return value.astype(jnp.float32) / 255 - 0.5
        return value.astype(jnp.float32) if value.dtype == jnp.bool_ else value

    return {key: prepare(value) for key, value in obs.items()}


def prepare_action(action: Array, size: int, factors: tuple[int, ...] = ()) -> Array:
    """Map indices [...] to one-hot [..., size], and -1 to zeros; keep float actions.

    Indices [..., F] of factors become their one-hot vectors in a row, `size` in all.
    """
    if not jnp.issubdtype(action.dtype, jnp.integer):
        return action
    if not factors:
        return jax.nn.one_hot(action, size)
    parts = [jax.nn.one_hot(action[..., i], choices) for i, choices in enumerate(factors)]
    return jnp.concatenate(parts, -1)


def log_probs(
    wm: WorldModel,
    params: Params,
    feat: Array,
    obs: Mapping[str, Array],
    reward: Array,
    is_terminal: Array,
    gamma: Array | float,
) -> dict[str, Array]:
    """Return the log-likelihoods of everything that is predicted from features (Eq. 2).

    The reward is predicted after its transform, the discount as the soft label
    gamma * (1 - is_terminal): a time limit is last but not terminal. Heads that are not in
    `grad_heads` learn from states without training them.

    Args:
        params: parameters by part.
        feat: features of the posterior states, [B, T, F].
        obs: prepared observations [B, T, ...].
        reward: raw rewards [B, T].
        is_terminal: [B, T] bool.
        gamma: discount in [0, 1].

    Returns:
        [B, T] by key: those of the objective, `reward`, and `discount` if it has a head.
    """

    def read(head: str) -> Array:
        return feat if head in wm.grad_heads else jax.lax.stop_gradient(feat)

    result = wm.objective.log_probs(params, read("observation"), obs)
    predicted = wm.predict_reward(params, read("reward"))
    result["reward"] = UnitNormal(predicted, 0).log_prob(wm.reward_transform(reward))
    if wm.discount is not None:
        target = gamma * (1 - is_terminal.astype(jnp.float32))
        logits = wm.discount_logits(params, read("discount"))
        result["discount"] = bernoulli(logits).log_prob(target)
    return result


def world_model_loss(
    wm: WorldModel,
    params: Params,
    batch: Batch,
    noise: Array,
    start: RSSMState,
    hypers: Hypers,
    *,
    sample: SampleFn = from_noise,
) -> tuple[Array, tuple[RSSMState, Metrics]]:
    """Compute the negative evidence lower bound, mean over batch and time (Eq. 2).

    loss = sum_k scale_k * -ln p_k + beta * KL loss.

    Args:
        params: parameters by part.
        batch: [B, T, ...] with observations as recorded, but for vectors that are standardised.
        noise: for the latent samples, [T, B, ...].
        start: state before the sequences, [B, ...].
        sample: sampling rule of the latents.

    Returns:
        The scalar loss, the posterior states [B, T, ...], and scalar metrics.
    """
    obs = prepare_obs(batch.obs)
    action = prepare_action(batch.action, wm.rssm.action_size, wm.factors)
    embed = wm.embed(params, obs)
    states, posterior, prior = rssm_lib.observe(
        wm.rssm, params["rssm"], embed, action, batch.is_first, noise, start, sample=sample
    )
    predicted = log_probs(
        wm, params, wm.feature(states), obs, batch.reward, batch.is_terminal, hypers.discount
    )
    kl_loss, kl = wm.kl_loss(
        wm.rssm.latent,
        posterior,
        prior,
        balance=hypers.kl_balance,
        free_nats=hypers.free_nats,
        free_avg=wm.free_avg,
    )
    losses = {f"{key}_loss": -log_prob.mean() for key, log_prob in predicted.items()}
    loss = hypers.kl_scale * kl_loss
    loss += sum(wm.loss_scales.get(key, 1.0) * losses[f"{key}_loss"] for key in predicted)
    metrics = losses | {
        "kl_loss": kl_loss,
        "kl": kl.mean(),
        "prior_entropy": wm.rssm.latent.dist(prior).entropy().mean(),
        "posterior_entropy": wm.rssm.latent.dist(posterior).entropy().mean(),
    }
    return loss, (states, metrics)
