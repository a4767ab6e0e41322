"""Objectives of the representation, beside rewards and ends (Hafner et al. 2020, Section 4).

Reconstruction, contrastive estimation, or the prediction of rewards alone. Each is a small class
with the network that it trains, if any; `OBJECTIVES` makes one by name.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from dreamer_jax.model.distributions import unit_normal
from dreamer_jax.model.networks import Decoder, Encoder, dense
from dreamer_jax.types import Array, Params

Obs = Mapping[str, Array]  # prepared entries, images [B, T, 64, 64, C], vectors [B, T, V]


class Objective(Protocol):
    """A bound on the information that features hold about observations."""

    def init(self, key: Array, feat: Array, obs: Obs) -> dict[str, Params]:
        """Return initial parameters of its network by name, empty without a network.

        Args:
            key: key of the initialisation.
            feat: a feature [1, F].
            obs: a prepared observation [1, ...].
        """

    def decode(self, params: Mapping[str, Params], feat: Array) -> dict[str, Array]:
        """Map features [B, T, F] to means of observation entries, empty without a decoder."""

    def log_probs(self, params: Mapping[str, Params], feat: Array, obs: Obs) -> dict[str, Array]:
        """Return log-likelihoods [B, T] to maximise, by name.

        Args:
            params: parameters of the world model's parts.
            feat: features [B, T, F].
            obs: prepared observations of the same steps.
        """


@dataclass(frozen=True)
class Reconstruction:
    """ln q(o | s): the decoder predicts the observation (Hafner et al. 2020, Eq. 10)."""

    decoder: Decoder

    def init(self, key: Array, feat: Array, obs: Obs) -> dict[str, Params]:
        return {"decoder": self.decoder.init(key, feat)["params"]}

    def decode(self, params: Mapping[str, Params], feat: Array) -> dict[str, Array]:
        return self.decoder.apply({"params": params["decoder"]}, feat)

    def log_probs(self, params: Mapping[str, Params], feat: Array, obs: Obs) -> dict[str, Array]:
        return reconstruction(self.decode(params, feat), obs)


@dataclass(frozen=True)
class Contrastive:
    """ln q(s | o) - ln sum_o' q(s | o'), over all observations o' of the batch.

    A network predicts the feature from its observation alone, well enough to tell it from the
    features of the other observations (Hafner et al. 2020, Eq. 12).
    """

    state_model: "StateModel"

    def init(self, key: Array, feat: Array, obs: Obs) -> dict[str, Params]:
        return {"state_model": self.state_model.init(key, obs)["params"]}

    def decode(self, params: Mapping[str, Params], feat: Array) -> dict[str, Array]:
        return {}

    def log_probs(self, params: Mapping[str, Params], feat: Array, obs: Obs) -> dict[str, Array]:
        mean = self.state_model.apply({"params": params["state_model"]}, obs)
        return {"state": info_nce(mean, feat)}


@dataclass(frozen=True)
class RewardOnly:
    """No objective: only rewards, ends and the KL train the representation."""

    def init(self, key: Array, feat: Array, obs: Obs) -> dict[str, Params]:
        return {}

    def decode(self, params: Mapping[str, Params], feat: Array) -> dict[str, Array]:
        return {}

    def log_probs(self, params: Mapping[str, Params], feat: Array, obs: Obs) -> dict[str, Array]:
        return {}


class StateModel(nn.Module):
    """q(s | o): the mean of a unit-variance normal over features."""

    encoder: Encoder
    outputs: int  # F
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, obs: Obs) -> Array:
        """Map observations as `Encoder` takes them to float32 means [..., F]."""
        return dense(self.outputs, self.dtype, "out")(self.encoder(obs)).astype(jnp.float32)


def reconstruction(means: Obs, obs: Obs) -> dict[str, Array]:
    """Return ln N(x; mean, 1) of every observation entry x (Hafner et al. 2021, Eq. 2).

    Args:
        means: outputs of the decoder, images [B, T, 64, 64, C], vectors [B, T, V].
        obs: the targets, of the same shapes.

    Returns:
        The log-likelihood [B, T] of each entry, summed over pixels or vector elements.
    """
    log_probs = {}
    for key, mean in means.items():
        chex.assert_equal_shape([mean, obs[key]])
        log_probs[key] = unit_normal(mean, mean.ndim - 2).log_prob(obs[key])
    return log_probs


def info_nce(mean: Array, feat: Array) -> Array:
    """Return ln N(s_i; m_i, 1) - ln sum_j N(s_i; m_j, 1) (Hafner et al. 2020, Eq. 12).

    The sum is over all steps j of the batch.

    Args:
        mean: features m predicted from each observation, [B, T, F].
        feat: features s, [B, T, F].

    Returns:
        [B, T], at most 0; -ln(B*T) if the observation is uninformative.
    """
    chex.assert_equal_shape([mean, feat])
    means, feats = (x.reshape(-1, x.shape[-1]) for x in (mean, feat))
    # |s_i|^2 in |s_i - m_j|^2 is the same for all j and cancels, which leaves one matmul.
    products = jnp.matmul(feats, means.T, precision=jax.lax.Precision.HIGHEST)
    scores = products - 0.5 * jnp.square(means).sum(-1)[None]
    log_probs = jnp.diagonal(scores) - jax.nn.logsumexp(scores, axis=-1)
    return log_probs.reshape(feat.shape[:-1])


class ObjectiveParts(NamedTuple):
    """Everything that an objective may be made of."""

    encoder: Encoder  # of the observation's entries
    decoder: Decoder
    features: int  # F


OBJECTIVES: dict[str, Callable[[ObjectiveParts], Objective]] = {
    "reconstruction": lambda parts: Reconstruction(parts.decoder),
    "contrastive": lambda parts: Contrastive(
        StateModel(parts.encoder, parts.features, parts.encoder.dtype)
    ),
    "reward_only": lambda parts: RewardOnly(),
}
