"""Strided convolutions in three formulations: XLA's own, and two of matrix multiplications.

Under `vmap` a convolution with per-member weights becomes a grouped convolution, which is slow
forward and backward; a matrix multiplication becomes a batched one. `FORMULATIONS` holds all.
All are VALID and square; images are [..., height, width, channels].
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, Protocol

import jax
import jax.numpy as jnp
from flax import linen as nn

from dreamer_jax.errors import lookup
from dreamer_jax.model.ops import matmul, winograd
from dreamer_jax.model.ops.activations import LINEAR, Activation
from dreamer_jax.model.ops.slices import Operation, Shape, fit, map_slices
from dreamer_jax.types import Array


class Layer(Protocol):
    """act(conv(images) + bias): images [N, h, w, I], kernel [k, k, I, O] -> [N, h', w', O]."""

    def __call__(
        self,
        images: Array,
        kernel: Array,
        stride: int,
        bias: Array | None = None,  # [O]
        act: Activation = LINEAR,
    ) -> Array: ...


class Formulation(NamedTuple):
    """A convolution and its transpose."""

    conv: Layer
    conv_transpose: Layer


def conv_lax(images, kernel, stride, bias=None, act=LINEAR) -> Array:
    """y[i, j] = sum_{u, v} x[s*i + u, s*j + v] k[u, v]."""
    out = jax.lax.conv_general_dilated(
        images, kernel, (stride, stride), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return act(_add_bias(out, bias))


def conv_transpose_lax(images, kernel, stride, bias=None, act=LINEAR) -> Array:
    """y[s*i + u, s*j + v] += x[i, j] k[u, v]."""
    pad = kernel.shape[0] - 1
    out = jax.lax.conv_general_dilated(
        images,
        kernel[::-1, ::-1],
        (1, 1),
        [(pad, pad), (pad, pad)],
        lhs_dilation=(stride, stride),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return act(_add_bias(out, bias))


def _add_bias(out: Array, bias: Array | None) -> Array:
    return out if bias is None else out + jnp.broadcast_to(bias, out.shape)


def _sum_rows(grad: Array) -> Array:
    """[n, h, w, O] -> [O], as a multiplication: XLA's CPU backend adds up rows more slowly."""
    rows = grad.reshape(-1, grad.shape[-1])
    return jnp.ones(rows.shape[0], rows.dtype) @ rows


KernelGrad = Callable[[Array, Array, int, int], Array]  # images, gradient, k, stride
MakeOperation = Callable[[Array, int, Shape], Operation]  # kernel, stride, shape of the images


def from_operations(
    correlate: MakeOperation, scatter: MakeOperation, kernel_grad: KernelGrad
) -> Formulation:
    """A formulation whose gradients are the same three operations.

    Args:
        correlate, scatter, kernel_grad: as in `matmul`.
    """

    def transposed_grad(images: Array, grad: Array, k: int, stride: int) -> Array:
        return kernel_grad(grad, images, k, stride).swapaxes(2, 3)

    return Formulation(
        conv=_make_layer(correlate, scatter, kernel_grad),
        conv_transpose=_make_layer(scatter, correlate, transposed_grad),
    )


def _make_layer(forward: MakeOperation, backward: MakeOperation, kernel_grad: KernelGrad) -> Layer:
    """A layer in slices of its images, one loop forward and one backward.

    All that is done with a slice is done while it is in the cache: bias and activation, and
    backward the slope, which needs the layer's values only, and all three gradients.
    Differentiated by JAX, an operation would keep all that it unfolds.

    Args:
        forward: on the images; backward: its transpose, on their gradient.
    """

    @partial(jax.custom_vjp, nondiff_argnums=(2, 4))
    def layer(images, kernel, stride, bias=None, act=LINEAR):
        operation = forward(kernel, stride, images.shape)

        def some(images: Array) -> tuple[Array, None]:
            return act(_add_bias(operation.compute(images), bias)), None

        return map_slices(some, (images,), operation)[0]

    def save(images, kernel, stride, bias, act):
        values = layer(images, kernel, stride, bias, act)
        return values, (images, kernel, bias, values)

    def grads(stride, act, saved, grad):
        images, kernel, bias, values = saved
        operation = backward(kernel.swapaxes(2, 3), stride, values.shape)

        def some(images: Array, values: Array, grad: Array) -> tuple[Array, tuple[Array, Array]]:
            # The barrier, as each of its readers would compute it again.
            grad = jax.lax.optimization_barrier(grad * act.slope(values))
            sums = kernel_grad(images, grad, kernel.shape[0], stride), _sum_rows(grad)
            return fit(operation.compute(grad), images.shape[1]), sums

        grad_images, sums = map_slices(some, (images, values, grad), operation)
        return grad_images, sums[0], None if bias is None else sums[1]

    layer.defvjp(save, grads)
    return layer


FORMULATIONS = {
    "lax": Formulation(conv_lax, conv_transpose_lax),
    "matmul": from_operations(matmul.correlate, matmul.scatter, matmul.kernel_grad),
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
    """A layer of convolutions, or of transposed ones: [N, h, w, I] -> [N, h', w', features]."""

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
        images, kernel, bias = (x.astype(self.dtype) for x in (images, kernel, bias))
        return self.layer(images, kernel, self.stride, bias, self.act)
