"""Feed-forward networks: dense stacks, encoder and decoder (Hafner et al. 2021, App. D).

Grids, which the paper does not have, are encoded as in MinAtar (Young & Tian 2019): by one 3x3
convolution and a dense layer.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from dreamer_jax.model.ops.activations import LINEAR, Activation
from dreamer_jax.model.ops.convolutions import Conv, Formulation, Layer, add_bias
from dreamer_jax.types import Array


class Kernels(NamedTuple):
    """Sizes of the stride-2 kernels of a coder, layer by layer."""

    encoder: tuple[int, ...]  # map the size of an image to 2
    decoder: tuple[int, ...]  # map 1 to the size of an image


# By height and width of images, in pixels. 64 is the paper's.
IMAGE_KERNELS = {
    32: Kernels((4, 4, 4), (5, 6, 6)),
    64: Kernels((4, 4, 4, 4), (5, 5, 6, 6)),
    96: Kernels((4, 4, 6, 6), (4, 4, 4, 4, 6)),
    128: Kernels((4, 4, 4, 4, 4), (5, 5, 5, 6, 6)),
}


class Dense(nn.Module):
    """A dense layer with float32 parameters and products in `dtype`: [..., I] -> [..., units]."""

    units: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        shape = (inputs.shape[-1], self.units)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.units,))
        product = self.multiply(inputs.astype(self.dtype), kernel.astype(self.dtype))
        return add_bias(product, bias)

    def multiply(self, inputs: Array, kernel: Array) -> Array:
        """Return the product of arrays in `dtype`."""
        return jnp.matmul(inputs, kernel)


class Output(Dense):
    """A dense layer whose result is float32: [..., I] -> [..., units] float32.

    In bfloat16 a value of 300 would be a multiple of 2, and actors learn from differences of
    values.
    """

    def multiply(self, inputs: Array, kernel: Array) -> Array:
        return _multiply_to_float32(inputs, kernel)


@jax.custom_vjp
def _multiply_to_float32(inputs: Array, kernel: Array) -> Array:
    """Return inputs @ kernel in float32; the products of its gradients are in the inputs' dtype."""
    return jnp.matmul(inputs, kernel, preferred_element_type=jnp.float32)


def _save_factors(*factors: Array) -> tuple[Array, tuple[Array, ...]]:
    return _multiply_to_float32(*factors), factors


def _product_grads(factors: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    _, pull_back = jax.vjp(jnp.matmul, *factors)
    return pull_back(grad.astype(factors[0].dtype))


_multiply_to_float32.defvjp(_save_factors, _product_grads)


@jax.custom_vjp
def normalize(x: Array) -> Array:
    """Return (x - mean) / sqrt(variance + 1e-3) over the last axis of x [..., I].

    Its gradient is written out, because the one that JAX derives has five reductions in place of
    two, each of which is a kernel in every step of a recurrence.
    """
    return _normalize(x)[0]


def _normalize(x: Array) -> tuple[Array, tuple[Array, Array]]:
    # The fast variance E[x^2] - E[x]^2 loses digits that a recurrence then amplifies.
    centered = x - x.mean(-1, keepdims=True)
    scale = jax.lax.rsqrt((centered**2).mean(-1, keepdims=True) + 1e-3)
    normalized = centered * scale
    return normalized, (normalized, scale)


def _normalize_grad(saved: tuple[Array, Array], grad: Array) -> tuple[Array]:
    normalized, scale = saved
    mean, product = jnp.stack([grad, grad * normalized]).mean(-1, keepdims=True)
    return (scale * (grad - mean - normalized * product),)


normalize.defvjp(_normalize, _normalize_grad)


class LayerNorm32(nn.Module):
    """Layer normalisation with epsilon 1e-3, computed in float32 and returned in `dtype`."""

    dtype: jnp.dtype

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        normalized = normalize(inputs.astype(jnp.float32))
        return _Affine(name="norm")(normalized).astype(self.dtype)


class _Affine(nn.Module):
    """Scale and shift each unit: [..., I] -> [..., I]."""

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, inputs.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, inputs.shape[-1:])
        scale, bias = (jnp.broadcast_to(x, inputs.shape) for x in (scale, bias))
        return inputs * scale + bias


class _Network(nn.Module, kw_only=True):
    """A network of hidden layers; `norm` normalises each between the layer and its activation."""

    act: Callable[[Array], Array]
    norm: bool
    dtype: jnp.dtype

    def dense_stack(self, inputs: Array, layers: int, units: int) -> Array:
        """Apply hidden layers `dense_0`, `dense_1`, ..."""
        hidden = inputs.astype(self.dtype)
        for i in range(layers):
            hidden = self.dense_layer(hidden, i, units)
        return hidden

    def dense_layer(self, inputs: Array, i: int, units: int) -> Array:
        """Apply the hidden layer `dense_i`."""
        hidden = Dense(units, self.dtype, name=f"dense_{i}")(inputs)
        if self.norm:
            hidden = LayerNorm32(self.dtype, name=f"norm_{i}")(hidden)
        return self.act(hidden)


class MLP(_Network):
    """Hidden layers of `units`, then a linear output: [..., I] -> [..., outputs] float32."""

    layers: int
    units: int
    outputs: int

    @nn.compact
    def __call__(self, inputs: Array) -> Array:
        hidden = self.dense_stack(inputs, self.layers, self.units)
        return Output(self.outputs, self.dtype, name="out")(hidden)


class GridEncoder(_Network):
    """A 3x3 convolution without padding, then a dense layer: [..., H, W, C] -> [..., units].

    The convolution is a dense layer over patches, so that under `vmap` members with weights of
    their own make batched matmuls.
    """

    depth: int
    units: int

    @nn.compact
    def __call__(self, grids: Array) -> Array:
        hidden = self.dense_layer(_patches(grids.astype(self.dtype)), 0, self.depth)
        return self.dense_layer(hidden.reshape(*grids.shape[:-3], -1), 1, self.units)


def _patches(grids: Array) -> Array:
    """Return the 3x3 patches of grids, row by row: [..., H, W, C] -> [..., H - 2, W - 2, 9 * C]."""
    height, width = grids.shape[-3] - 2, grids.shape[-2] - 2
    windows = [grids[..., u : u + height, v : v + width, :] for u in range(3) for v in range(3)]
    return jnp.concatenate(windows, -1)


class _Coder(_Network, kw_only=True):
    """A network of convolutions for images, and of dense layers for grids and vectors."""

    image_size: int  # pixels, one of `IMAGE_KERNELS`
    depth: int
    cnn_act: Activation
    formulation: Formulation
    mlp_layers: int
    mlp_units: int
    grid_depth: int
    grid_layers: int
    grid_units: int

    @property
    def settings(self) -> dict:
        """The arguments that all networks share."""
        return {"act": self.act, "norm": self.norm, "dtype": self.dtype}

    def conv_stack(
        self, images: Array, layer: Layer, depths: Sequence[int], kernels: Sequence[int]
    ) -> Array:
        """Apply stride-2 layers `conv_0`, `conv_1`, ..."""
        for i, (depth, kernel) in enumerate(zip(depths, kernels, strict=True)):
            act = LINEAR if self.norm else self.cnn_act
            images = Conv(depth, kernel, 2, layer, act, self.dtype, name=f"conv_{i}")(images)
            if self.norm:
                images = self.cnn_act(LayerNorm32(self.dtype, name=f"conv_norm_{i}")(images))
        return images


class Encoder(_Coder):
    """A network from observations to embeddings.

    Images (all `cnn_keys` stacked on channels) pass stride-2 convolutions, those of 64x64 pixels
    four, 64 -> 31 -> 14 -> 6 -> 2; vectors (all `mlp_keys` concatenated) pass a dense stack; grids
    (all `grid_keys` stacked on channels) pass a `GridEncoder`.
    """

    cnn_keys: tuple[str, ...]
    mlp_keys: tuple[str, ...]
    grid_keys: tuple[str, ...]

    @property
    def embed_size(self) -> int:
        """X, the size of an embedding."""
        layers = len(IMAGE_KERNELS[self.image_size].encoder)
        images = 2 * 2 * self.depth * 2 ** (layers - 1) if self.cnn_keys else 0
        grids = self.grid_units if self.grid_keys else 0
        return images + (self.mlp_units if self.mlp_keys else 0) + grids

    @nn.compact
    def __call__(self, obs: Mapping[str, Array]) -> Array:
        """Map images [..., 64, 64, C] in [-0.5, 0.5], vectors [..., V], grids [..., H, W, C]."""
        parts = []
        if self.cnn_keys:
            images = jnp.concatenate([obs[k] for k in self.cnn_keys], -1)
            flat = images.reshape(-1, *images.shape[-3:])
            kernels = IMAGE_KERNELS[self.image_size].encoder
            depths = [self.depth * 2**i for i in range(len(kernels))]
            hidden = self.conv_stack(flat, self.formulation.conv, depths, kernels)
            parts.append(hidden.reshape(*images.shape[:-3], -1))
        if self.mlp_keys:
            vectors = jnp.concatenate([obs[k] for k in self.mlp_keys], -1)
            parts.append(self.dense_stack(vectors, self.mlp_layers, self.mlp_units))
        if self.grid_keys:
            grids = jnp.concatenate([obs[k] for k in self.grid_keys], -1)
            sizes = {"depth": self.grid_depth, "units": self.grid_units}
            parts.append(GridEncoder(**sizes, **self.settings, name="grid")(grids))
        return jnp.concatenate(parts, -1)


class Decoder(_Coder):
    """A network from features to the means of observation entries, of grids to their logits.

    A dense layer to 32 * depth channels and stride-2 transposed convolutions, for 64x64 pixels
    1 -> 5 -> 13 -> 30 -> 64, produce images; a dense stack produces vectors, and another one grids.
    """

    image_channels: Mapping[str, int]  # channels of each image key
    vector_sizes: Mapping[str, int]  # size of each vector key
    grid_shapes: Mapping[str, tuple[int, int, int]]  # equal but in channels

    @nn.compact
    def __call__(self, feat: Array) -> dict[str, Array]:
        """Map features [..., F] to float32 images [..., 64, 64, C], vectors, grids by name."""
        means = {}
        if self.image_channels:
            images = self._images(feat, sum(self.image_channels.values()))
            means |= _split(images, self.image_channels)
        if self.vector_sizes:
            hidden = self.dense_stack(feat, self.mlp_layers, self.mlp_units)
            vectors = Output(sum(self.vector_sizes.values()), self.dtype, name="out")(hidden)
            means |= _split(vectors, self.vector_sizes)
        if self.grid_shapes:
            means |= self._grids(feat)
        return {key: mean.astype(jnp.float32) for key, mean in means.items()}

    def _images(self, feat: Array, channels: int) -> Array:
        lead = feat.shape[:-1]
        hidden = Dense(32 * self.depth, self.dtype, name="conv_in")(feat)
        hidden = hidden.reshape(math.prod(lead), 1, 1, 32 * self.depth)
        size, layer = self.image_size, self.formulation.conv_transpose
        *kernels, last = IMAGE_KERNELS[size].decoder
        depths = [self.depth * 2**i for i in reversed(range(len(kernels)))]
        hidden = self.conv_stack(hidden, layer, depths, kernels)
        name = f"conv_{len(kernels)}"
        images = Conv(channels, last, 2, layer, LINEAR, self.dtype, name=name)(hidden)
        return images.reshape(*lead, size, size, channels)

    def _grids(self, feat: Array) -> dict[str, Array]:
        channels = {key: shape[2] for key, shape in self.grid_shapes.items()}
        height, width, _ = next(iter(self.grid_shapes.values()))
        shape = height, width, sum(channels.values())
        sizes = {"layers": self.grid_layers, "units": self.grid_units}
        logits = MLP(**sizes, outputs=math.prod(shape), **self.settings, name="grid")(feat)
        return _split(logits.reshape(*feat.shape[:-1], *shape), channels)


def _split(joined: Array, sizes: Mapping[str, int]) -> dict[str, Array]:
    """Split the last axis into named entries."""
    *offsets, _ = accumulate(sizes.values())
    return dict(zip(sizes, jnp.split(joined, offsets, -1), strict=True))
