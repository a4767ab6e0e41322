"""Objectives of the representation, beside rewards and ends (Hafner et al. 2020, Section 4).

Each is a small class with the network that it trains, if any, registered in `OBJECTIVES`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from dreamer_jax.model.distributions import UnitNormal, bernoulli
from dreamer_jax.model.networks import Decoder, Dense, Encoder
from dreamer_jax.schema import Key, Registry, number
from dreamer_jax.types import Array, Params

# Prepared entries: images [B, T, 64, 64, C], vectors [B, T, V], grids [B, T, H, W, C].
Obs = Mapping[str, Array]


class Objective:
    """A bound on the information that features hold about observations.

    The defaults are those of an objective without a network. `docs/extending.md` has an example.
    """

    @property
    def loss_scales(self) -> dict[str, float]:
        """The weights of its losses by name; 1 if absent."""
        return {}

    def init(self, key: Array, feat: Array, obs: Obs) -> dict[str, Params]:
        """Return parameters by network, given a feature [1, F] and an observation [1, ...]."""
        return {}

    def decode(self, params: Mapping[str, Params], feat: Array) -> dict[str, Array]:
        """Map features [B, T, F] to means of observation entries; empty without a decoder."""
        return {}

    def log_probs(self, params: Mapping[str, Params], feat: Array, obs: Obs) -> dict[str, Array]:
        """Return log-likelihoods [B, T] to maximise, by name.

        Args:
            params: parameters of all parts of the world model.
            feat: [B, T, F].
            obs: prepared observations of the same steps.
        """
        raise NotImplementedError


class ObjectiveParts(NamedTuple):
    """The parts that an objective may be made of."""

    encoder: Encoder
    decoder: Decoder
    features: int  # F


# Factories (parts, **values of the keys registered with it) -> objective.
OBJECTIVES: Registry[Callable[..., Objective]] = Registry()


@dataclass(frozen=True)
class Reconstruction(Objective):
    """ln q(o | s): the decoder predicts the observation (Hafner et al. 2020, Eq. 10)."""

    decoder: Decoder
    image: float  # weight of the loss of each image
    vector: float  # weight of the loss of each vector
    grid: float  # weight of the loss of each grid

    @property
    def loss_scales(self) -> dict[str, float]:
        images = dict.fromkeys(self.decoder.image_channels, self.image)
        vectors = dict.fromkeys(self.decoder.vector_sizes, self.vector)
        return images | vectors | dict.fromkeys(self.decoder.grid_shapes, self.grid)

    def init(self, key: Array, feat: Array, obs: Obs) -> dict[str, Params]:
        return {"decoder": self.decoder.init(key, feat)["params"]}

    def decode(self, params: Mapping[str, Params], feat: Array) -> dict[str, Array]:
        means, logits = self._predict(params, feat)
        return means | {key: jax.nn.sigmoid(value) for key, value in logits.items()}

    def log_probs(self, params: Mapping[str, Params], feat: Array, obs: Obs) -> dict[str, Array]:
        means, logits = self._predict(params, feat)
        return reconstruction(means, obs) | reconstruction_of_grids(logits, obs)

    def _predict(
        self, params: Mapping[str, Params], feat: Array
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return the means of images and vectors, and the logits of grids."""
        means = self.decoder.apply({"params": params["decoder"]}, feat)
        return means, {key: means.pop(key) for key in self.decoder.grid_shapes}


@OBJECTIVES.register(
    "reconstruction",
    {
        "loss_scales.image": Key(1.0, number(), "weight of the loss of each image"),
        "loss_scales.vector": Key(1.0, number(), "weight of the loss of each vector"),
        "loss_scales.grid": Key(1.0, number(), "weight of the loss of each grid"),
    },
)
def make_reconstruction(
    parts: ObjectiveParts, *, image: float, vector: float, grid: float
) -> Reconstruction:
    return Reconstruction(parts.decoder, image, vector, grid)


@dataclass(frozen=True)
class Contrastive(Objective):
    """ln q(s | o) - ln sum_o' q(s | o'), over all observations o' of the batch.

    A network predicts the feature from its observation alone, well enough to tell it from the
    features of the other observations (Hafner et al. 2020, Eq. 12).
    """

    state_model: "StateModel"
    scale: float  # weight of the loss

    @property
    def loss_scales(self) -> dict[str, float]:
        return {"state": self.scale}

    def init(self, key: Array, feat: Array, obs: Obs) -> dict[str, Params]:
        return {"state_model": self.state_model.init(key, obs)["params"]}

    def log_probs(self, params: Mapping[str, Params], feat: Array, obs: Obs) -> dict[str, Array]:
        mean = self.state_model.apply({"params": params["state_model"]}, obs)
        return {"state": info_nce(mean, feat)}


@OBJECTIVES.register(
    "contrastive",
    {"loss_scales.state": Key(1.0, number(), "weight of the contrastive loss")},
)
def make_contrastive(parts: ObjectiveParts, *, state: float) -> Contrastive:
    return Contrastive(StateModel(parts.encoder, parts.features), state)


class RewardOnly(Objective):
    """No objective: only rewards, ends and the KL train the representation."""

    def log_probs(self, params: Mapping[str, Params], feat: Array, obs: Obs) -> dict[str, Array]:
        return {}


@OBJECTIVES.register("reward_only")
def make_reward_only(parts: ObjectiveParts) -> RewardOnly:
    return RewardOnly()


class StateModel(nn.Module):
    """q(s | o): float32 means [..., F] of a unit-variance normal over features."""

    encoder: Encoder
    outputs: int  # F

    @nn.compact
    def __call__(self, obs: Obs) -> Array:
        out = Dense(self.outputs, self.encoder.dtype, name="out")
        return out(self.encoder(obs)).astype(jnp.float32)


def reconstruction(means: Obs, obs: Obs) -> dict[str, Array]:
    """Return ln N(x; mean, 1) of every observation entry x (Hafner et al. 2021, Eq. 2).

    Images are [B, T, 64, 64, C], vectors [B, T, V]; the results [B, T] are sums over their
    elements.
    """
    log_probs = {}
    for key, mean in means.items():
        chex.assert_equal_shape([mean, obs[key]])
        log_probs[key] = UnitNormal(mean, mean.ndim - 2).log_prob(obs[key])
    return log_probs


def reconstruction_of_grids(logits: Obs, obs: Obs) -> dict[str, Array]:
    """Return ln Bernoulli(x; sigmoid(logits)) of every grid x [B, T, H, W, C], summed over cells.

    A normal of unit variance, as for images, would lose at most 0.5 nats by missing a cell, too
    little beside the KL loss where one moving cell is all that matters.
    """
    log_probs = {}
    for key, logit in logits.items():
        chex.assert_equal_shape([logit, obs[key]])
        log_probs[key] = bernoulli(logit).log_prob(obs[key]).sum((-3, -2, -1))
    return log_probs


def info_nce(mean: Array, feat: Array) -> Array:
    """Return ln N(s_i; m_i, 1) - ln sum_j N(s_i; m_j, 1) (Hafner et al. 2020, Eq. 12).

    The sum is over all steps j of the batch.

    Args:
        mean: features m that are predicted from each observation, [B, T, F].
        feat: features s, [B, T, F].

    Returns:
        [B, T], at most 0; -ln(B*T) if the observations are uninformative.
    """
    chex.assert_equal_shape([mean, feat])
    means, feats = (x.reshape(-1, x.shape[-1]) for x in (mean, feat))
    # |s_i|^2 in |s_i - m_j|^2 is the same for all j and cancels, which leaves one matmul.
    products = jnp.matmul(feats, means.T, precision=jax.lax.Precision.HIGHEST)
    scores = products - 0.5 * jnp.square(means).sum(-1)[None]
    log_probs = jnp.diagonal(scores) - jax.nn.logsumexp(scores, axis=-1)
    return log_probs.reshape(feat.shape[:-1])
