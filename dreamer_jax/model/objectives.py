"""What makes the world model's representation of observations, beside rewards and ends.

Hafner et al. 2020, Section 4: reconstruction, contrastive estimation, reward prediction alone. Each
is a small class with the network that it trains, if any.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from dreamer_jax.model.distributions import unit_normal
from dreamer_jax.model.networks import Decoder, Encoder, dense
from dreamer_jax.types import Array, Params

Obs = Mapping[str, Array]  # prepared entries, images [B, T, 64, 64, C], vectors [B, T, V]


class Objective(Protocol):
    """A bound on the information that features hold of observations."""

    def init(self, key: Array, feat: Array, obs: Obs) -> dict[str, Params]:
        """Initial parameters of its network by name, from feature [1, F] and observation [1, ...];
        empty without one."""

    def decode(self, params: Mapping[str, Params], feat: Array) -> dict[str, Array]:
        """Means of the observation entries, for features [B, T, F]; empty without a decoder."""

    def likes(self, params: Mapping[str, Params], feat: Array, obs: Obs) -> dict[str, Array]:
        """Log-likelihoods [B, T] by name, to be maximised.

        Args:
            params: of the world model's parts; feat: [B, T, F]; obs: of the same steps.
        """


@dataclass(frozen=True)
class Reconstruction:
    """ln q(o | s): the decoder predicts the observation (Hafner et al. 2020, Eq. 10)."""

    decoder: Decoder

    def __call__(self, means: Obs, obs: Obs) -> dict[str, Array]:
        """Log-likelihoods [B, T] by entry of the decoder's means."""
        return reconstruction(means, obs)

    def init(self, key: Array, feat: Array, obs: Obs) -> dict[str, Params]:
        del obs
        return {"decoder": self.decoder.init(key, feat)["params"]}

    def decode(self, params: Mapping[str, Params], feat: Array) -> dict[str, Array]:
        return self.decoder.apply({"params": params["decoder"]}, feat)

    def likes(self, params: Mapping[str, Params], feat: Array, obs: Obs) -> dict[str, Array]:
        return self(self.decode(params, feat), obs)


@dataclass(frozen=True)
class Contrastive:
    """ln q(s | o) - ln sum_o' q(s | o'): a network predicts the feature from the observation
    alone, and must tell it from those of the batch's other observations o' (Eq. 12)."""

    state_model: "StateModel"

    def init(self, key: Array, feat: Array, obs: Obs) -> dict[str, Params]:
        del feat
        return {"state_model": self.state_model.init(key, obs)["params"]}

    def decode(self, params: Mapping[str, Params], feat: Array) -> dict[str, Array]:
        del params, feat
        return {}

    def likes(self, params: Mapping[str, Params], feat: Array, obs: Obs) -> dict[str, Array]:
        return {
            "state": info_nce(self.state_model.apply({"params": params["state_model"]}, obs), feat)
        }


@dataclass(frozen=True)
class RewardOnly:
    """Nothing: rewards, ends and the KL alone make the representation."""

    def init(self, key: Array, feat: Array, obs: Obs) -> dict[str, Params]:
        del key, feat, obs
        return {}

    def decode(self, params: Mapping[str, Params], feat: Array) -> dict[str, Array]:
        del params, feat
        return {}

    def likes(self, params: Mapping[str, Params], feat: Array, obs: Obs) -> dict[str, Array]:
        del params, feat, obs
        return {}


class StateModel(nn.Module):
    """q(s | o): the mean of a unit-variance normal over the feature."""

    encoder: Encoder
    outputs: int  # F
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, obs: Obs) -> Array:
        """Args: obs: as of `Encoder`. Returns: float32 [..., F]."""
        return dense(self.outputs, self.dtype, "out")(self.encoder(obs)).astype(jnp.float32)


def reconstruction(means: Obs, obs: Obs) -> dict[str, Array]:
    """ln p(x | feature), unit-variance normal, 0.5 ln 2 pi included (Hafner et al. 2021, Eq. 2).

    Args:
        means: decoder outputs, images [B, T, 64, 64, C], vectors [B, T, V]; obs: the targets.

    Returns:
        Per entry the log-likelihood [B, T], summed over pixels or vector elements.
    """
    likes = {}
    for key, mean in means.items():
        chex.assert_equal_shape([mean, obs[key]])
        likes[key] = unit_normal(mean, mean.ndim - 2).log_prob(obs[key])
    return likes


def info_nce(mean: Array, feat: Array) -> Array:
    """ln N(s_i; m_i, 1) - ln sum_j N(s_i; m_j, 1), j over all steps of the batch (Eq. 12).

    Args:
        mean: [B, T, F] predicted from each observation; feat: [B, T, F].

    Returns:
        [B, T], at most 0, and -ln(B*T) where the observation says nothing.
    """
    chex.assert_equal_shape([mean, feat])
    means, feats = (x.reshape(-1, x.shape[-1]) for x in (mean, feat))
    # Of |s_i - m_j|^2 the term |s_i|^2 is in all j and cancels; the rest is one product.
    products = jnp.matmul(feats, means.T, precision=jax.lax.Precision.HIGHEST)
    scores = products - 0.5 * jnp.square(means).sum(-1)[None]
    likes = jnp.diagonal(scores) - jax.nn.logsumexp(scores, axis=-1)
    return likes.reshape(feat.shape[:-1])


def make_reconstruction(encoder: Encoder, decoder: Decoder, features: int) -> Reconstruction:
    """Args: encoder, decoder: of the observation's entries; features: F."""
    del encoder, features
    return Reconstruction(decoder)


def make_contrastive(encoder: Encoder, decoder: Decoder, features: int) -> Contrastive:
    """Arguments as of `make_reconstruction`."""
    del decoder
    return Contrastive(StateModel(encoder, features, encoder.dtype))


def make_reward_only(encoder: Encoder, decoder: Decoder, features: int) -> RewardOnly:
    """Arguments as of `make_reconstruction`."""
    del encoder, decoder, features
    return RewardOnly()


OBJECTIVES = {
    "reconstruction": make_reconstruction,
    "contrastive": make_contrastive,
    "reward_only": make_reward_only,
}
