"""A convolution, its transpose and its kernel's gradient as XLA computes them fast on a CPU.

XLA's CPU backend is fast at convolutions, but neither at those that spread their inputs (the
transpose, and the gradient of the images) nor at kernels' gradients. Here the former becomes a
convolution with stride 1, whose outputs are blocks of stride x stride pixels, and the latter a
matmul per tap of the kernel, as in `matmul`. Only these gradients unfold images: an operation's
`im2col_size` is what the gradient of its kernel needs.
"""

import jax
import jax.numpy as jnp

from dreamer_jax.model.ops import matmul
from dreamer_jax.model.ops.slices import Operation, Shape, depth_to_space, space_to_depth
from dreamer_jax.types import Array

LAYOUT = ("NHWC", "HWIO", "NHWC")
# Kernels' gradients with fewer numbers per tap than THIN share matmuls among GROUP blocks.
THIN, GROUP = 256, 4


def correlate(kernel: Array, stride: int, shape: Shape) -> Operation:
    """Return a convolution, with arguments and result of `matmul.correlate`."""
    size, (k, _, channels, _) = shape[1], kernel.shape
    if size == k:
        return matmul.correlate(kernel, stride, shape)

    def compute(images: Array) -> Array:
        return jax.lax.conv_general_dilated(
            images, kernel, (stride, stride), "VALID", dimension_numbers=LAYOUT
        )

    return Operation(compute, (((size - k) // stride + 1) * k) ** 2 * channels)


def scatter(kernel: Array, stride: int, shape: Shape) -> Operation:
    """Return a transposed convolution, with arguments and result of `matmul.scatter`.

    A block of the result depends on the r x r pixels whose products reach it, where r is the number
    of taps along an axis; `pieces` maps them to the stride x stride x O numbers of the block.
    """
    size, (k, _, channels, outputs) = shape[1], kernel.shape
    if size == 1:
        return matmul.scatter(kernel, stride, shape)
    taps, side = -(-k // stride), (size - 1) * stride + k
    fill = taps * stride - k
    kernel = jnp.pad(kernel, ((0, fill), (0, fill), (0, 0), (0, 0)))
    pieces = kernel.reshape(taps, stride, taps, stride, channels, outputs)
    pieces = pieces.transpose(0, 2, 4, 1, 3, 5)[::-1, ::-1].reshape(taps, taps, channels, -1)
    border = [(taps - 1, taps - 1)] * 2

    def compute(images: Array) -> Array:
        blocks = jax.lax.conv_general_dilated(
            images, pieces, (1, 1), border, dimension_numbers=LAYOUT
        )
        return depth_to_space(blocks.reshape(*blocks.shape[:3], stride, stride, outputs), side)

    return Operation(compute, (size * k) ** 2 * outputs)


def kernel_grad(images: Array, grad: Array, k: int, stride: int) -> Array:
    """Return the gradient of `correlate`'s kernel, with arguments of `matmul.kernel_grad`."""
    size, channels, out, outputs = *images.shape[2:], *grad.shape[2:]
    if size == k or stride**2 * channels * outputs >= THIN:
        return matmul.kernel_grad(images, grad, k, stride, together=False)
    # A tap's own matmul would have too few rows and columns to be fast. Here one matmul multiplies
    # GROUP neighbouring blocks by GROUP neighbouring gradients, shifted for each tap of a row; the
    # sum of its products of equal neighbours is the tap's gradient.
    taps = -(-k // stride)
    height, width = out + taps - 1, -(-(out + taps - 1) // GROUP) * GROUP
    rows = space_to_depth(images, width, stride)[:, :height]
    rows = rows.reshape(-1, height, width // GROUP, GROUP * stride**2 * channels)
    shifts = [((0, 0), (0, 0), (v, width - out - v), (0, 0)) for v in range(taps)]
    grads = jnp.stack([jnp.pad(grad, shift) for shift in shifts], 3)
    grads = jax.lax.optimization_barrier(grads.reshape(-1, GROUP * taps * outputs))

    def tap_row(u: int) -> Array:
        part = jax.lax.optimization_barrier(rows[:, u : u + out].reshape(-1, rows.shape[-1]))
        products = (part.T @ grads).reshape(GROUP, -1, GROUP, taps, outputs)
        return jnp.einsum("gigvo->vio", products)

    pieces = jnp.stack([tap_row(u) for u in range(taps)])
    pieces = pieces.reshape(taps, taps, stride, stride, channels, outputs).swapaxes(1, 2)
    return pieces.reshape(taps * stride, taps * stride, channels, outputs)[:k, :k]
