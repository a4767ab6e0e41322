"""Convolutions with fewer multiplications (Winograd 1980; Lavin and Gray 2016, Section 4.1).

Blocks of stride x stride pixels become channels, which leaves a kernel of r taps along each axis
and stride 1. Two neighbouring outputs then need r + 1 products instead of 2 r:

    y = A^T [(G w) * (B d)],   d the r + 1 inputs, w the r taps, y the two outputs

and along both axes (r + 1)^2 products per four outputs instead of 4 r^2: 1.8 times fewer for r = 2,
2.25 times for r = 3. Each product is one matmul over all tiles and channels. The transposed
convolution and both gradients are the same products with the sums A, B and G transposed. Kernels
that do not have 2 or 3 taps are left to `matmul`, and so are all dtypes but float32, in which the
sums would lose digits.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dreamer_jax.model.ops import matmul as direct
from dreamer_jax.model.ops.slices import (
    Operation,
    Shape,
    crop_or_pad,
    depth_to_space,
    space_to_depth,
)
from dreamer_jax.types import Array

MIN_SLICE = 32 * 2**20  # bytes: each of the (r + 1)^2 matmuls of a slice must be large enough
WIDE = 128  # channels of a block below which matmuls are too cheap to be worth replacing by sums
MANY = 256  # tiles of all images below which the kernel's sums cost more than they save

Rows = Sequence[Sequence[float]]


class _Filter(NamedTuple):
    """Coefficients of the sums around the products, a row per product."""

    inputs: Rows  # B [r + 1, r + 1]
    kernel: Rows  # G [r + 1, r]
    outputs: Rows  # A [r + 1, 2]


_FILTERS = {
    2: _Filter(
        inputs=[[1, -1, 0], [0, 1, 0], [0, -1, 1]],
        kernel=[[1, 0], [1, 1], [0, 1]],
        outputs=[[1, 0], [1, 1], [0, 1]],
    ),
    3: _Filter(
        inputs=[[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
        kernel=[[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]],
        outputs=[[1, 0], [1, 1], [1, -1], [0, -1]],
    ),
}


def correlate(kernel: Array, stride: int, shape: Shape) -> Operation:
    """Return `matmul.correlate` with fewer multiplications."""
    size, (k, _, channels, outputs) = shape[1], kernel.shape
    out = (size - k) // stride + 1
    if size == k or not _applies(k, stride, channels, shape[0], out, kernel.dtype):
        return direct.correlate(kernel, stride, shape)
    taps = k // stride
    sums, tiles = _FILTERS[taps], -(-out // 2)
    weights = _kernel_sums(kernel, stride)

    def compute(images: Array) -> Array:
        blocks = _blocks(images, 2 * tiles + taps - 1, stride)
        return _products(blocks, weights, sums.inputs, sums.outputs)[:, :out, :out]

    return Operation(compute, _im2col_size(tiles, taps, stride**2 * channels, outputs), MIN_SLICE)


def scatter(kernel: Array, stride: int, shape: Shape) -> Operation:
    """Return `matmul.scatter` with fewer multiplications."""
    size, (k, _, channels, outputs) = shape[1], kernel.shape
    if size == 1 or not _applies(k, stride, outputs, shape[0], size, kernel.dtype):
        return direct.scatter(kernel, stride, shape)
    taps, side = k // stride, (size - 1) * stride + k
    sums, tiles = _FILTERS[taps], -(-size // 2)
    weights = _kernel_sums(kernel.swapaxes(2, 3), stride).swapaxes(2, 3)

    def compute(images: Array) -> Array:
        blocks = _products(crop_or_pad(images, 2 * tiles), weights, sums.outputs, sums.inputs)
        return depth_to_space(blocks.reshape(*blocks.shape[:3], stride, stride, outputs), side)

    return Operation(compute, _im2col_size(tiles, taps, channels, stride**2 * outputs), MIN_SLICE)


def kernel_grad(images: Array, grad: Array, k: int, stride: int) -> Array:
    """Compute `matmul.kernel_grad` with fewer multiplications."""
    (size, channels), (out, outputs) = images.shape[2:], grad.shape[2:]
    if size == k or not _applies(k, stride, channels, images.shape[0], out, images.dtype):
        return direct.kernel_grad(images, grad, k, stride)
    taps, tiles = k // stride, -(-out // 2)
    sums = _FILTERS[taps]

    rows = _split(_blocks(images, 2 * tiles + taps - 1, stride), sums.inputs, 1)
    grad_rows = _split(crop_or_pad(grad, 2 * tiles), sums.outputs, 1)
    products = []
    for row, grad_row in zip(rows, grad_rows, strict=True):
        parts = _split(row, sums.inputs, 2), _split(grad_row, sums.outputs, 2)
        for part, grad_part in zip(*parts, strict=True):
            flat = part.reshape(-1, part.shape[-1])
            products.append(grad_part.reshape(-1, outputs).T @ flat)
    products = jnp.stack(products).reshape(taps + 1, taps + 1, outputs, -1)
    both = np.asarray(sums.kernel, products.dtype)
    blocks = jnp.einsum("pu,qv,pqoi->uvio", both, both, products)
    blocks = blocks.reshape(taps, taps, stride, stride, channels, outputs)
    return blocks.swapaxes(1, 2).reshape(k, k, channels, outputs)


def _applies(k: int, stride: int, channels: int, n: int, side: int, dtype: jnp.dtype) -> bool:
    """Return whether this saves time for a kernel and n images of side x side outputs."""
    known = k % stride == 0 and k // stride in _FILTERS
    many = n * (-(-side // 2)) ** 2 >= MANY
    return known and many and stride**2 * channels >= WIDE and dtype == jnp.float32


def _im2col_size(tiles: int, taps: int, inputs: int, outputs: int) -> int:
    """Return the numbers per image in the operands or in the results of all products."""
    return (tiles * (taps + 1)) ** 2 * max(inputs, outputs)


def _blocks(images: Array, count: int, stride: int) -> Array:
    """Make channels of blocks of pixels: [n, h, w, c] -> [n, count, count, stride^2 c]."""
    blocks = space_to_depth(images, count, stride)
    return blocks.reshape(*blocks.shape[:3], -1)


def _kernel_sums(kernel: Array, stride: int) -> Array:
    """Apply G along both axes: [k, k, I, O] -> [r + 1, r + 1, stride^2 I, O]."""
    k, _, channels, outputs = kernel.shape
    taps = k // stride
    blocks = kernel.reshape(taps, stride, taps, stride, channels, outputs).swapaxes(1, 2)
    both = np.asarray(_FILTERS[taps].kernel, kernel.dtype)
    return jnp.einsum("pu,qv,uvio->pqio", both, both, blocks.reshape(taps, taps, -1, outputs))


def _products(images: Array, weights: Array, before: Rows, after: Rows) -> Array:
    """Sum windows along both axes, multiply by the weights, and add the products to windows.

    One row of products at a time keeps XLA's fusions small.
    """
    lines = []
    for row, row_weights in zip(_split(images, before, 1), weights, strict=True):
        parts = zip(_split(row, before, 2), row_weights, strict=True)
        lines.append(_join([part @ weight for part, weight in parts], after, 2))
    return _join(lines, after, 1)


def _split(array: Array, rows: Rows, axis: int) -> list[Array]:
    """Apply each row of coefficients to windows that start at every second entry of an axis.

    [..., 2 (tiles - 1) + window, ...] -> one [..., tiles, ...] per row.
    """
    window = len(rows[0])
    last = array.shape[axis] - window
    entries = [jax.lax.slice_in_dim(array, i, i + last + 1, 2, axis) for i in range(window)]
    return [_combine(row, entries) for row in rows]


def _join(parts: Sequence[Array], rows: Rows, axis: int) -> Array:
    """Apply the transpose of `_split`: overlapping windows are added.

    One [..., tiles, ...] per row -> [..., 2 (tiles - 1) + window, ...], plus a zero if it is odd.
    """
    entries = [_combine(column, parts) for column in zip(*rows, strict=True)]
    longest = (len(entries) - 1) // 2

    def shift(entry: Array, front: int) -> Array:
        widths = [(0, 0)] * entry.ndim
        widths[axis] = (front, longest - front)
        return jnp.pad(entry, widths)

    phases = [sum(shift(x, i) for i, x in enumerate(entries[phase::2])) for phase in (0, 1)]
    both = jnp.stack(phases, axis + 1)
    return both.reshape(*both.shape[:axis], -1, *both.shape[axis + 2 :])


def _combine(coefficients: Sequence[float], arrays: Sequence[Array]) -> Array:
    return sum(c * x for c, x in zip(coefficients, arrays, strict=True) if c)
