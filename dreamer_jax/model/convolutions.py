"""Strided convolutions in three formulations: XLA's own, and two of matrix multiplications.

Under `vmap` a convolution with per-member weights becomes a grouped convolution, which is slow
forward and backward; a matrix multiplication becomes a batched one. `FORMULATIONS` holds all.
All are VALID and square; images are [..., height, width, channels].
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from dreamer_jax.model import matmul_convolutions, winograd
from dreamer_jax.model.image_slices import fit
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


def from_operations(
    correlate: Callable[[Array, Array, int], Array],
    scatter: Callable[[Array, Array, int], Array],
    kernel_grad: Callable[[Array, Array, int, int], Array],
) -> Formulation:
    """A formulation whose gradients are the same three operations.

    Differentiated, an operation would keep all that it unfolds, and add padded gradients.

    Args:
        correlate, scatter, kernel_grad: as in `matmul_convolutions`.
    """

    @partial(jax.custom_vjp, nondiff_argnums=(2,))
    def conv(images: Array, kernel: Array, stride: int) -> Array:
        return correlate(images, kernel, stride)

    def conv_grad(stride: int, saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
        images, kernel = saved
        grad_images = fit(scatter(grad, kernel.swapaxes(2, 3), stride), images.shape[1])
        return grad_images, kernel_grad(images, grad, kernel.shape[0], stride)

    @partial(jax.custom_vjp, nondiff_argnums=(2,))
    def conv_transpose(images: Array, kernel: Array, stride: int) -> Array:
        return scatter(images, kernel, stride)

    def conv_transpose_grad(
        stride: int, saved: tuple[Array, Array], grad: Array
    ) -> tuple[Array, Array]:
        images, kernel = saved
        grad_images = correlate(grad, kernel.swapaxes(2, 3), stride)
        return grad_images, kernel_grad(grad, images, kernel.shape[0], stride).swapaxes(2, 3)

    conv.defvjp(lambda *args: (conv(*args), args[:2]), conv_grad)
    conv_transpose.defvjp(lambda *args: (conv_transpose(*args), args[:2]), conv_transpose_grad)
    return Formulation(conv, conv_transpose)


FORMULATIONS = {
    "lax": Formulation(conv_lax, conv_transpose_lax),
    "matmul": from_operations(
        matmul_convolutions.correlate, matmul_convolutions.scatter, matmul_convolutions.kernel_grad
    ),
    "winograd": from_operations(winograd.correlate, winograd.scatter, winograd.kernel_grad),
}


def choose_formulation(name: str) -> Formulation:
    """Return a formulation by name; 'auto' takes the faster one of the default backend.

    Raises:
        ValueError: unknown name.
    """
    if name == "auto":
        name = "winograd" if jax.default_backend() == "cpu" else "lax"
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
