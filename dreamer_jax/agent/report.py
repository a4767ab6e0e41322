"""Predictions of one member's model for replayed sequences, beside what was seen.

Nothing here trains. The figures say why a run fails: docs/diagnosing.md tells what they mean.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dreamer_jax.agent.agent import Agent, read_obs
from dreamer_jax.model import rssm as rssm_lib
from dreamer_jax.model.distributions import from_noise
from dreamer_jax.model.world_model import WorldModel, prepare_action
from dreamer_jax.types import Array, Batch, LatentStats, Metrics, Params, RSSMState, TrainState

SHOWN = 6  # sequences in each video
CANDIDATES = 64  # sequences of which those of a run's videos are chosen
COLLAPSED = 0.01  # nats; a latent variable whose KL is never above it carries no information


class Film(NamedTuple):
    """An image entry of N sequences, float32 [N, T, 64, 64, C] in [0, 1] each."""

    truth: Array
    prediction: Array  # reconstructions in the context, then open loop with the replayed actions
    imagined: Array | None  # the same with the learned policy's actions; None without one


class Report(NamedTuple):
    """The outcome of `report`; what needs steps after the context is empty if there are none."""

    metrics: Metrics  # scalars; NaN where the batch has nothing to compare
    error: dict[str, Array]  # [T] by entry of the observation, and `reward`; see `_open_loop_error`
    is_first: Array  # [N, T] bool, of the sequences shown
    films: dict[str, Film]  # by image entry


def report(agent: Agent, state: TrainState, batch: Batch, key: Array) -> Report:
    """Filter a batch [B, T, ...], then predict some of its sequences open loop.

    Of the B sequences, N = min(B, SHOWN) are predicted: those that a new episode interrupts latest
    or never. They are filtered for `agent.context` steps; from there the prior follows the replayed
    actions, and, apart from that, those of the learned policy.

    Args:
        state: its parameters and hyperparameters are read.
        key: key of all samples.
    """
    wm, model, context = agent.wm, state.params["model"], agent.context
    observe_key, predict_key, imagine_key = jax.random.split(key, 3)
    obs = read_obs(state.params, batch.obs)
    action = prepare_action(batch.action, wm.rssm.action_size, wm.factors)
    b, t = batch.reward.shape
    noise = wm.rssm.latent.noise(observe_key, (t, b))
    past = (wm.embed(model, obs), action, batch.is_first, noise, wm.rssm.initial((b,)))
    states, posterior, prior = rssm_lib.observe(wm.rssm, model["rssm"], *past, sample=from_noise)
    metrics = latent_metrics(wm, posterior, prior)
    metrics |= calibration(wm, model, states, batch, state.hypers.discount)
    if t <= context:
        return Report(metrics, {}, batch.is_first[:0], {})

    shown = least_interrupted(batch.is_first)
    states, obs, batch, action = jax.tree.map(lambda x: x[shown], (states, obs, batch, action))
    begun = jax.tree.map(lambda x: x[:, :context], states)
    last = jax.tree.map(lambda x: x[:, -1], begun)
    noise = wm.rssm.latent.noise(predict_key, (t - context, len(shown)))
    future = (action[:, context:], batch.is_first[:, context:], noise, last)
    rest, _ = rssm_lib.open_loop(wm.rssm, model["rssm"], *future, sample=from_noise)
    feat = wm.feature(_join(begun, rest))
    means = wm.decode(model, feat)
    error = _open_loop_error(
        means | {"reward": wm.predict_reward(model, feat)},
        obs | {"reward": wm.reward_transform(batch.reward)},
        batch.is_first,
        context,
    )
    entries = means or {"reward"}
    metrics["open_loop_error"] = jnp.nanmean(jnp.stack([error[k][context:] for k in entries]))

    trajectory = agent.behaviors[0].imagine(wm, state.params, last, imagine_key, t - context)
    imagined = {}
    if trajectory is not None:
        rest = jax.tree.map(lambda x: x[1:].swapaxes(0, 1), trajectory.state)
        imagined = wm.decode(model, wm.feature(_join(begun, rest)))
    films = {
        k: Film(obs[k] + 0.5, _picture(means[k]), _picture(imagined[k]) if imagined else None)
        for k in means
        if agent.obs_shapes[k][1] == "uint8"
    }
    return Report(metrics, error, batch.is_first, films)


def latent_metrics(wm: WorldModel, posterior: LatentStats, prior: LatentStats) -> Metrics:
    """Return the KL divergence per latent variable, and the share of collapsed variables.

    A variable is collapsed if the KL of its posterior from its prior is below COLLAPSED in every
    step of the batch: no observation changes what the model believes about it. The first step of
    every sequence is one of these steps, where the prior knows nothing, so that a variable that is
    merely predictable does not count.

    Args:
        posterior, prior: parameters of the distributions, [B, T, ...].
    """
    dist = wm.rssm.latent.dist
    kl = dist(posterior).kl_by_variable(dist(prior))  # [B, T, Z]
    mean, highest = kl.mean((0, 1)), kl.max((0, 1))
    return {
        "latent_kl_mean": mean.mean(),
        "latent_kl_max": mean.max(),
        "collapsed_latents": (highest < COLLAPSED).mean(),
    }


def calibration(
    wm: WorldModel, params: Params, states: RSSMState, batch: Batch, gamma: Array
) -> Metrics:
    """Compare the rewards and discounts that are predicted from posterior states with those seen.

    `reward_slope` is sum(predicted * seen) / sum(seen^2): 1 if rewards are predicted in full, 0 if
    not at all. Rewards are compared after their transform.

    Args:
        params: the world model's.
        states: posterior states of the batch, [B, T, ...].
        gamma: the discount of a step that is not terminal.
    """
    feat = wm.feature(states)
    predicted, seen = wm.predict_reward(params, feat), wm.reward_transform(batch.reward)
    metrics = {
        "reward_predicted": predicted.mean(),
        "reward_seen": seen.mean(),
        "reward_nonzero": (seen != 0).mean(),
        "reward_error": jnp.square(predicted - seen).mean(),
        "reward_slope": (predicted * seen).sum() / jnp.square(seen).sum(),
    }
    if wm.discount is None:
        return metrics
    discount, end = wm.predict_discount(params, feat, gamma), batch.is_terminal
    return metrics | {
        "discount_predicted": discount.mean(),
        "discount_seen": (gamma * (1 - end.astype(jnp.float32))).mean(),
        "discount_at_end": jnp.where(end, discount, 0).sum() / end.sum(),
    }


def least_interrupted(is_first: Array) -> Array:
    """Return the indices [..., N] of the sequences that a new episode interrupts latest or never.

    Args:
        is_first: [..., B, T] bool, of JAX or NumPy.
    """
    undisturbed = (is_first[..., 1:].cumsum(-1) == 0).sum(-1)
    return (-undisturbed).argsort(-1, stable=True)[..., :SHOWN]


def _open_loop_error(
    predicted: Mapping[str, Array], seen: Mapping[str, Array], is_first: Array, context: int
) -> dict[str, Array]:
    """Return the mean squared error of every entry, per element, at each step.

    The first `context` errors are those of reconstructions. Later steps count only in the sequences
    that no new episode has interrupted after the context; NaN where there is none.

    Args:
        predicted, seen: [N, T, ...] by entry; only entries that are predicted count.
        is_first: [N, T] bool.

    Returns:
        [T] by entry.
    """
    interrupted = jnp.cumsum(is_first.at[:, :context].set(False), 1) > 0
    valid = 1 - interrupted.astype(jnp.float32)
    errors = {}
    for name, value in predicted.items():
        square = jnp.square(value - seen[name]).reshape(*valid.shape, -1).mean(-1)
        errors[name] = (square * valid).sum(0) / valid.sum(0)
    return errors


def _join(begun: RSSMState, rest: RSSMState) -> RSSMState:
    """Concatenate states [N, C, ...] and [N, T - C, ...] in time."""
    return jax.tree.map(lambda x, y: jnp.concatenate([x, y], 1), begun, rest)


def _picture(mean: Array) -> Array:
    """Return means of a prepared image as brightness in [0, 1]."""
    return jnp.clip(mean + 0.5, 0, 1)
