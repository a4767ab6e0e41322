"""Strided convolutions in two formulations: XLA's own, and matrix multiplications.

Under `vmap` a convolution with per-member weights becomes a grouped convolution, which is slow
forward and backward; a matrix multiplication becomes a batched one. `FORMULATIONS` holds both.
All are VALID and square; images are [..., height, width, channels].
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from dreamer_jax.names import lookup
from dreamer_jax.types import Array


class Formulation(NamedTuple):
    """A convolution and its transpose, each `(images [N, h, w, I], kernel, stride) -> [N, ...]`."""

    conv: Callable[[Array, Array, int], Array]
    conv_transpose: Callable[[Array, Array, int], Array]


def conv_lax(images: Array, kernel: Array, stride: int) -> Array:
    """y[i, j] = sum_{u, v} x[s*i + u, s*j + v] k[u, v], kernel [k, k, I, O]."""
    return jax.lax.conv_general_dilated(
        images, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def conv_transpose_lax(images: Array, kernel: Array, stride: int) -> Array:
    """y[s*i + u, s*j + v] += x[i, j] k[u, v], kernel [k, k, I, O]."""
    pad = kernel.shape[0] - 1
    return jax.lax.conv_general_dilated(
        images,
        kernel[::-1, ::-1],
        (1, 1),
        [(pad, pad), (pad, pad)],
        lhs_dilation=(stride, stride),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def conv_matmul(images: Array, kernel: Array, stride: int) -> Array:
    """`conv_lax` as space-to-depth, (k/s)^2 shifted slices and one matrix multiplication."""
    n, size, _, channels = images.shape
    k, outputs = kernel.shape[0], kernel.shape[3]
    out = (size - k) // stride + 1
    taps = -(-k // stride)
    blocks = out + taps - 1
    images = _fit(images, blocks * stride)
    images = images.reshape(n, blocks, stride, blocks, stride, channels)
    images = images.transpose(0, 1, 3, 2, 4, 5).reshape(n, blocks, blocks, -1)
    patches = [images[:, u : u + out, v : v + out] for u in range(taps) for v in range(taps)]
    patches = jnp.concatenate(patches, -1)
    weights = _tap_major(kernel, stride).reshape(patches.shape[-1], outputs)
    return (patches.reshape(-1, patches.shape[-1]) @ weights).reshape(n, out, out, outputs)


def conv_transpose_matmul(images: Array, kernel: Array, stride: int) -> Array:
    """`conv_transpose_lax` as one matrix multiplication and an overlap-add of (k/s)^2 blocks."""
    n, size, _, channels = images.shape
    k, outputs = kernel.shape[0], kernel.shape[3]
    taps = -(-k // stride)
    blocks = size + taps - 1
    weights = _tap_major(kernel, stride)  # [taps^2, s^2, I, O]
    weights = weights.transpose(2, 0, 1, 3).reshape(channels, -1)
    columns = (images.reshape(-1, channels) @ weights).reshape(n, size, size, -1)
    # A split's gradient is one concatenation; slices' would be as many padded sums.
    columns = jax.lax.split(columns, [stride**2 * outputs] * taps**2, axis=3)
    total = 0.0
    for index, column in enumerate(columns):
        u, v = divmod(index, taps)
        pads = ((0, 0), (u, blocks - size - u), (v, blocks - size - v), (0, 0))
        total += jnp.pad(column, pads)
    total = total.reshape(n, blocks, blocks, stride, stride, outputs)
    total = total.transpose(0, 1, 3, 2, 4, 5).reshape(n, blocks * stride, blocks * stride, outputs)
    side = (size - 1) * stride + k
    return total[:, :side, :side]


def _fit(images: Array, side: int) -> Array:
    """Cut or zero-pad the lower and right border to `side` pixels."""
    images = images[:, :side, :side]
    missing = side - images.shape[1]
    return jnp.pad(images, ((0, 0), (0, missing), (0, missing), (0, 0))) if missing else images


def _tap_major(kernel: Array, stride: int) -> Array:
    """[k, k, I, O] -> [taps^2, stride^2, I, O], zero where k is not a multiple of the stride."""
    k, _, inputs, outputs = kernel.shape
    taps = -(-k // stride)
    extra = taps * stride - k
    kernel = jnp.pad(kernel, ((0, extra), (0, extra), (0, 0), (0, 0)))
    kernel = kernel.reshape(taps, stride, taps, stride, inputs, outputs)
    return kernel.transpose(0, 2, 1, 3, 4, 5).reshape(taps**2, stride**2, inputs, outputs)


FORMULATIONS = {
    "lax": Formulation(conv_lax, conv_transpose_lax),
    "matmul": Formulation(conv_matmul, conv_transpose_matmul),
}


def choose_formulation(name: str) -> Formulation:
    """Return a formulation by name; 'auto' takes the faster one of the default backend.

    Raises:
        ValueError: unknown name.
    """
    if name == "auto":
        name = "matmul" if jax.default_backend() == "cpu" else "lax"
    return lookup(FORMULATIONS, name, "model.conv")


class Conv(nn.Module):
    """Convolution, or transposed convolution, with bias: [N, h, w, I] -> [N, h', w', features]."""

    features: int
    kernel_size: int
    stride: int
    apply_kernel: Callable[[Array, Array, int], Array]
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, images: Array) -> Array:
        shape = (self.kernel_size, self.kernel_size, images.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        images, kernel = images.astype(self.dtype), kernel.astype(self.dtype)
        out = self.apply_kernel(images, kernel, self.stride)
        return out + jnp.broadcast_to(bias.astype(self.dtype), out.shape)
