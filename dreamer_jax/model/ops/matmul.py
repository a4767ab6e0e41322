"""Convolutions as matrix multiplications.

A convolution, its transpose and their gradients are three operations: `correlate`, `scatter` and
`kernel_grad`. Blocks of stride x stride pixels become channels, and the kernel is cut into taps of
as many; each tap multiplies one shifted slice of the blocks.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dreamer_jax.model.ops.slices import Operation, Shape, depth_to_space, space_to_depth
from dreamer_jax.types import Array

# Bytes that one slice may unfold on a CPU: what stays in the cache is 2 to 3 times as fast as all
# images at once.
CPU_SLICE = 8 * 2**20
NARROW = 64  # channels of a tap below which all taps make one multiplication


class _Tap(NamedTuple):
    """A piece of the kernel: where among the pieces it is, and how many rows and columns it has."""

    u: int
    v: int
    rows: int
    columns: int


def correlate(kernel: Array, stride: int, shape: Shape) -> Operation:
    """y[i, j] = sum_{u, v} x[s*i + u, s*j + v] k[u, v]: a sum over taps.

    Args:
        kernel: [k, k, I, O]; shape: of all images, [N, h, h, I].

    Returns:
        Images [n, h, h, I] -> [n, out, out, O] of `(h - k) // stride + 1` places along each axis.
    """
    size, (k, _, channels, outputs) = shape[1], kernel.shape
    if size == k:
        flat = kernel.reshape(-1, outputs)
        return Operation(
            lambda images: (images.reshape(-1, flat.shape[0]) @ flat)[:, None, None], 0, CPU_SLICE
        )
    out, taps = (size - k) // stride + 1, _taps(k, stride)
    weights = [_piece(kernel, tap, stride).reshape(-1, outputs) for tap in taps]
    narrow = _is_narrow(channels, stride)
    if narrow:
        weights = [jnp.concatenate(weights)]

    def compute(images: Array) -> Array:
        parts = _shifted(images, out, taps, stride, narrow)
        products = (x.reshape(-1, x.shape[-1]) @ w for x, w in zip(parts, weights, strict=True))
        return sum(products).reshape(-1, out, out, outputs)

    width = (k if narrow else stride) ** 2 * channels  # of what is multiplied at once
    return Operation(compute, out**2 * width, CPU_SLICE)


def scatter(kernel: Array, stride: int, shape: Shape) -> Operation:
    """y[s*i + u, s*j + v] += x[i, j] k[u, v]: one multiplication, and an overlap-add of blocks.

    Args:
        kernel: [k, k, I, O]; shape: of all images, [N, h, h, I].

    Returns:
        Images [n, h, h, I] -> [n, side, side, O] of `(h - 1) * stride + k` pixels along each axis.
    """
    size, (k, _, channels, outputs) = shape[1], kernel.shape
    if size == 1:
        flat = kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
        return Operation(
            lambda images: (images.reshape(-1, channels) @ flat).reshape(-1, k, k, outputs),
            0,
            CPU_SLICE,
        )
    taps, side = _taps(k, stride), (size - 1) * stride + k
    pieces = [_piece(kernel, tap, stride).transpose(2, 0, 1, 3) for tap in taps]
    weights = jnp.concatenate([piece.reshape(channels, -1) for piece in pieces], -1)
    last = taps[-1]

    def compute(images: Array) -> Array:
        columns = images @ weights
        widths = [tap.rows * tap.columns * outputs for tap in taps]
        total = 0.0
        for tap, column in zip(taps, jax.lax.split(columns, widths, axis=3), strict=True):
            column = column.reshape(*column.shape[:3], tap.rows, tap.columns, outputs)
            shifts = (tap.u, last.u - tap.u), (tap.v, last.v - tap.v)
            rest = (0, stride - tap.rows), (0, stride - tap.columns)
            total += jnp.pad(column, ((0, 0), *shifts, *rest, (0, 0)))
        return depth_to_space(total, side)

    return Operation(compute, size**2 * weights.shape[1], CPU_SLICE)


def kernel_grad(images: Array, grad: Array, k: int, stride: int) -> Array:
    """dk[u, v] = sum_{n, i, j} x[s*i + u, s*j + v] g[i, j], the gradient of `correlate`'s kernel.

    Args:
        images: [n, h, h, I]; grad: [n, out, out, O] of its result.

    Returns:
        [k, k, I, O].
    """
    size, channels, out, outputs = *images.shape[2:], *grad.shape[2:]
    if size == k:
        flat = images.reshape(images.shape[0], -1).T @ grad.reshape(-1, outputs)
        return flat.reshape(k, k, channels, outputs)
    taps, narrow = _taps(k, stride), _is_narrow(channels, stride)
    # In this order the gradient is transposed once, and none of the parts is.
    grad = grad.reshape(-1, outputs).T
    parts = _shifted(images, out, taps, stride, narrow)
    weights = jnp.concatenate([grad @ part.reshape(-1, part.shape[-1]) for part in parts], -1)
    return _join(weights.T, taps, k, channels)


def _taps(k: int, stride: int) -> list[_Tap]:
    """A kernel in pieces of stride x stride, the last ones smaller where that does not divide k."""
    lengths = [min(stride, k - start) for start in range(0, k, stride)]
    cuts = list(enumerate(lengths))
    return [_Tap(u, v, rows, columns) for u, rows in cuts for v, columns in cuts]


def _piece(kernel: Array, tap: _Tap, stride: int) -> Array:
    """[k, k, I, O] -> [rows, columns, I, O]."""
    top, left = tap.u * stride, tap.v * stride
    return kernel[top : top + tap.rows, left : left + tap.columns]


def _join(weights: Array, taps: list[_Tap], k: int, channels: int) -> Array:
    """The pieces of all taps, one after the other [k * k * I, O] -> [k, k, I, O]."""
    widths = [tap.rows * tap.columns * channels for tap in taps]
    pieces = [
        piece.reshape(tap.rows, tap.columns, channels, -1)
        for tap, piece in zip(taps, jax.lax.split(weights, widths), strict=True)
    ]
    across = taps[-1].v + 1
    rows = [pieces[i : i + across] for i in range(0, len(pieces), across)]
    return jnp.concatenate([jnp.concatenate(row, 1) for row in rows])


def _shifted(images: Array, out: int, taps: list[_Tap], stride: int, narrow: bool) -> list[Array]:
    """What the taps multiply, each [n, out, out, channels], or one array of all if they are narrow.

    They are made one after the other, so that a slice unfolds no more than one.
    """
    blocks = space_to_depth(images, out + taps[-1].u, stride)
    slices = []
    for u, v, rows, columns in taps:
        window = blocks[:, u : u + out, v : v + out, :rows, :columns]
        slices.append(window.reshape(-1, out, out, rows * columns * images.shape[3]))
    return [jnp.concatenate(slices, -1)] if narrow else slices


def _is_narrow(channels: int, stride: int) -> bool:
    return stride**2 * channels < NARROW
