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

from dreamer_jax.model.matmul_convolutions import conv_matmul, conv_transpose_matmul
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
