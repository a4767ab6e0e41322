"""Strided convolutions in three formulations: XLA's own, and two that avoid its slow gradients.

All are square and VALID. The package's docstring explains the matmul formulations.
"""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from dreamer_jax.errors import lookup
from dreamer_jax.model.ops import blocks, matmul
from dreamer_jax.model.ops.activations import LINEAR, Activation
from dreamer_jax.model.ops.slices import Operation, Shape, crop_or_pad, map_slices
from dreamer_jax.runtime import Backend
from dreamer_jax.types import Array

# act(conv(images) + bias): (images [N, h, w, I], kernel [k, k, I, O], stride, bias [O] or None,
# act) -> [N, h', w', O]. Bias and activation are optional.
Layer = Callable[..., Array]


class Formulation(NamedTuple):
    """A convolution and its transpose."""

    conv: Layer
    conv_transpose: Layer


def conv_lax(images, kernel, stride, bias=None, act=LINEAR) -> Array:
    """Compute y[i, j] = sum_{u, v} x[s*i + u, s*j + v] k[u, v]."""
    out = jax.lax.conv_general_dilated(
        images, kernel, (stride, stride), "VALID", dimension_numbers=blocks.LAYOUT
    )
    return act(_add_bias(out, bias))


def conv_transpose_lax(images, kernel, stride, bias=None, act=LINEAR) -> Array:
    """Compute y[s*i + u, s*j + v] += x[i, j] k[u, v]."""
    pad = kernel.shape[0] - 1
    out = jax.lax.conv_general_dilated(
        images,
        kernel[::-1, ::-1],
        (1, 1),
        [(pad, pad), (pad, pad)],
        lhs_dilation=(stride, stride),
        dimension_numbers=blocks.LAYOUT,
    )
    return act(_add_bias(out, bias))


def add_bias(product: Array, bias: Array) -> Array:
    """Add a float32 bias [O] to a product [..., O], whose dtype the sum has.

    The sum itself is float32: a cast of the bias would be a kernel of its own on an accelerator.
    """
    bias = jnp.broadcast_to(bias, product.shape)
    return (product.astype(jnp.float32) + bias).astype(product.dtype)


def _add_bias(product: Array, bias: Array | None) -> Array:
    return product if bias is None else add_bias(product, bias)


def _sum_rows(grad: Array) -> Array:
    """Sum [n, h, w, O] to [O] float32 by a matmul, which XLA computes faster on CPUs than a sum."""
    rows = grad.reshape(-1, grad.shape[-1])
    return (jnp.ones(rows.shape[0], rows.dtype) @ rows).astype(jnp.float32)


def from_operations(module: ModuleType, slice_bytes: int) -> Formulation:
    """Make a formulation whose forward and backward passes are a module's three operations.

    Args:
        module: has `correlate`, `scatter` and `kernel_grad`, as `matmul` does.
        slice_bytes: memory that a slice of the images may unfold.
    """
    correlate, scatter, kernel_grad = module.correlate, module.scatter, module.kernel_grad

    def transposed_grad(images: Array, grad: Array, k: int, stride: int) -> Array:
        return kernel_grad(grad, images, k, stride).swapaxes(2, 3)

    return Formulation(
        conv=_make_layer(correlate, scatter, kernel_grad, slice_bytes),
        conv_transpose=_make_layer(scatter, correlate, transposed_grad, slice_bytes),
    )


MakeOperation = Callable[[Array, int, Shape], Operation]  # kernel, stride, shape of the images


def _make_layer(
    forward: MakeOperation,
    backward: MakeOperation,  # the transpose of `forward`
    kernel_grad: Callable[[Array, Array, int, int], Array],  # images, gradient, k, stride
    slice_bytes: int,
) -> Layer:
    """Make a layer that runs one loop over slices of the images forward, and one backward.

    Bias and activation are part of the loop, and so are the activation's slope and all three
    gradients.
    """

    @partial(jax.custom_vjp, nondiff_argnums=(2, 4))
    def layer(images, kernel, stride, bias=None, act=LINEAR):
        operation = forward(kernel, stride, images.shape)

        def forward_slice(images: Array) -> tuple[Array, None]:
            return act(_add_bias(operation.compute(images), bias)), None

        return map_slices(forward_slice, (images,), operation, slice_bytes)[0]

    def save(images, kernel, stride, bias, act):
        values = layer(images, kernel, stride, bias, act)
        return values, (images, kernel, bias, values)

    def grads(stride, act, saved, grad):
        images, kernel, bias, values = saved
        operation = backward(kernel.swapaxes(2, 3), stride, values.shape)

        def backward_slice(images, values, grad) -> tuple[Array, tuple[Array, Array]]:
            # The barrier keeps each reader of the product from computing it again.
            grad = jax.lax.optimization_barrier(grad * act.slope(values))
            sums = kernel_grad(images, grad, kernel.shape[0], stride), _sum_rows(grad)
            return crop_or_pad(operation.compute(grad), images.shape[1]), sums

        arrays = images, values, grad
        grad_images, sums = map_slices(backward_slice, arrays, operation, slice_bytes)
        return grad_images, sums[0], None if bias is None else sums[1]

    layer.defvjp(save, grads)
    return layer


LAX = Formulation(conv_lax, conv_transpose_lax)
# Each entry takes `slice_bytes`; XLA's own convolutions need no slices.
FORMULATIONS: dict[str, Callable[[int], Formulation]] = {
    "blocks": partial(from_operations, blocks),
    "lax": lambda slice_bytes: LAX,
    "matmul": partial(from_operations, matmul),
}


def make_formulation(name: str, backend: Backend) -> Formulation:
    """Return a formulation by the value of `config.conv`; 'auto' is the backend's choice."""
    name = backend.convolutions if name == "auto" else name
    return lookup(FORMULATIONS, name, "config.conv")(backend.slice_bytes)


class Conv(nn.Module):
    """A convolutional or transposed convolutional layer: [N, h, w, I] -> [N, h', w', features]."""

    features: int
    kernel_size: int
    stride: int
    layer: Layer
    act: Activation
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, images: Array) -> Array:
        shape = (self.kernel_size, self.kernel_size, images.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        images, kernel = images.astype(self.dtype), kernel.astype(self.dtype)
        return self.layer(images, kernel, self.stride, bias, self.act)
