"""Feed-forward networks: dense stacks, image encoder and decoder (Hafner et al. 2021, App. D)."""

import math
from collections.abc import Callable, Mapping

import jax.numpy as jnp
from flax import linen as nn

from dreamer_jax.model.ops.activations import LINEAR, Activation
from dreamer_jax.model.ops.convolutions import Conv, Formulation
from dreamer_jax.types import Array

ENCODER_KERNELS = (4, 4, 4, 4)
DECODER_KERNELS = (5, 5, 6, 6)
IMAGE_SIZE = 64  # pixels; the encoder's kernels map it to 2, the decoder's map 1 to it


def dense(units: int, dtype: jnp.dtype, name: str | None = None) -> nn.Dense:
    """Return a dense layer with Glorot-uniform kernel, zero bias and float32 parameters."""
    init = nn.initializers.glorot_uniform()
    return nn.Dense(units, dtype=dtype, kernel_init=init, name=name)


class LayerNorm32(nn.Module):
    """Layer normalisation with epsilon 1e-3, computed in float32 and returned in `dtype`."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        # The fast variance E[x^2] - E[x]^2 loses digits that a recurrence then amplifies.
        norm = nn.LayerNorm(epsilon=1e-3, dtype=jnp.float32, use_fast_variance=False, name="norm")
        return norm(inputs.astype(jnp.float32)).astype(self.dtype)


class MLP(nn.Module):
    """Hidden layers of `units`, then a linear output: [..., I] -> [..., outputs] float32.

    With `norm`, layer normalisation comes between each hidden layer and its activation.
    """

    layers: int
    units: int
    outputs: int
    act: Callable[[Array], Array]
    norm: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        hidden = hidden_stack(inputs, self.layers, self.units, self.act, self.norm, self.dtype)
        return dense(self.outputs, self.dtype, "out")(hidden).astype(jnp.float32)


def hidden_stack(
    inputs: Array,
    layers: int,
    units: int,
    act: Callable[[Array], Array],
    norm: bool,
    dtype: jnp.dtype,
) -> Array:
    """Apply hidden layers `dense_0`, `dense_1`, ... of the enclosing compact module."""
    hidden = inputs.astype(dtype)
    for i in range(layers):
        hidden = dense(units, dtype, f"dense_{i}")(hidden)
        if norm:
            hidden = LayerNorm32(dtype, name=f"norm_{i}")(hidden)
        hidden = act(hidden)
    return hidden


class Encoder(nn.Module):
    """A network from observations to embeddings.

    Images (64x64, all `cnn_keys` stacked on channels) pass four stride-2 convolutions,
    64 -> 31 -> 14 -> 6 -> 2; vectors (all `mlp_keys` concatenated) pass a dense stack.
    """

    cnn_keys: tuple[str, ...]
    mlp_keys: tuple[str, ...]
    depth: int
    mlp_layers: int
    mlp_units: int
    act: Callable[[Array], Array]
    cnn_act: Activation
    norm: bool
    formulation: Formulation
    dtype: jnp.dtype

    @property
    def embed_size(self) -> int:
        """X, the size of an embedding."""
        images = 2 * 2 * self.depth * 2 ** (len(ENCODER_KERNELS) - 1) if self.cnn_keys else 0
        return images + (self.mlp_units if self.mlp_keys else 0)

    @nn.compact
    def __call__(self, obs: Mapping[str, Array]) -> Array:
        """Embed observations.

        Args:
            obs: floats by key, images [..., 64, 64, C] in [-0.5, 0.5], vectors [..., V].

        Returns:
            [..., X].
        """
        parts = []
        if self.cnn_keys:
            parts.append(self._images(jnp.concatenate([obs[k] for k in self.cnn_keys], -1)))
        if self.mlp_keys:
            vectors = jnp.concatenate([obs[k] for k in self.mlp_keys], -1)
            args = (self.mlp_layers, self.mlp_units, self.act, self.norm, self.dtype)
            parts.append(hidden_stack(vectors, *args))
        return jnp.concatenate(parts, -1)

    def _images(self, images: Array) -> Array:
        lead, hidden = images.shape[:-3], images.reshape(-1, *images.shape[-3:])
        for i, kernel in enumerate(ENCODER_KERNELS):
            # A layer norm goes between the convolution and its activation.
            act = LINEAR if self.norm else self.cnn_act
            args = (self.depth * 2**i, kernel, 2, self.formulation.conv, act, self.dtype)
            hidden = Conv(*args, name=f"conv_{i}")(hidden)
            if self.norm:
                hidden = self.cnn_act(LayerNorm32(self.dtype, name=f"conv_norm_{i}")(hidden))
        return hidden.reshape(*lead, -1)


class Decoder(nn.Module):
    """A network from features to the means of observation entries.

    Images come from a dense layer to 32 * depth channels and four stride-2 transposed convolutions,
    1 -> 5 -> 13 -> 30 -> 64; vectors from a dense stack.
    """

    image_channels: Mapping[str, int]  # channels of each image key
    vector_sizes: Mapping[str, int]  # size of each vector key
    depth: int
    mlp_layers: int
    mlp_units: int
    act: Callable[[Array], Array]
    cnn_act: Activation
    norm: bool
    formulation: Formulation
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, feat: Array) -> dict[str, Array]:
        """Map features [..., F] to float32 means, images [..., 64, 64, C], vectors [..., V]."""
        means = {}
        if self.image_channels:
            images = self._images(feat, sum(self.image_channels.values()))
            means |= _split(images, self.image_channels)
        if self.vector_sizes:
            args = (self.mlp_layers, self.mlp_units, self.act, self.norm, self.dtype)
            hidden = hidden_stack(feat, *args)
            vectors = dense(sum(self.vector_sizes.values()), self.dtype, "out")(hidden)
            means |= _split(vectors, self.vector_sizes)
        return {key: mean.astype(jnp.float32) for key, mean in means.items()}

    def _images(self, feat: Array, channels: int) -> Array:
        lead = feat.shape[:-1]
        hidden = dense(32 * self.depth, self.dtype, "conv_in")(feat.astype(self.dtype))
        hidden = hidden.reshape(math.prod(lead), 1, 1, 32 * self.depth)
        depths = (4 * self.depth, 2 * self.depth, self.depth, channels)
        for i, (features, kernel) in enumerate(zip(depths, DECODER_KERNELS, strict=True)):
            last = i == len(depths) - 1
            act = LINEAR if self.norm or last else self.cnn_act
            args = (features, kernel, 2, self.formulation.conv_transpose, act, self.dtype)
            hidden = Conv(*args, name=f"conv_{i}")(hidden)
            if self.norm and not last:
                hidden = self.cnn_act(LayerNorm32(self.dtype, name=f"conv_norm_{i}")(hidden))
        return hidden.reshape(*lead, IMAGE_SIZE, IMAGE_SIZE, channels)


def _split(joined: Array, sizes: Mapping[str, int]) -> dict[str, Array]:
    """Split the last axis into named entries."""
    offsets = [sum(list(sizes.values())[: i + 1]) for i in range(len(sizes) - 1)]
    return dict(zip(sizes, jnp.split(joined, offsets, -1), strict=True))
