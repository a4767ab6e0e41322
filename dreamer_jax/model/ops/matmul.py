"""A convolution, its transpose and its kernel's gradient as matrix multiplications (matmuls).

Blocks of stride x stride pixels become channels, and the kernel is cut into taps of that size; each
tap multiplies one shifted window of the blocks.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dreamer_jax.model.ops.slices import Operation, Shape, depth_to_space, space_to_depth
from dreamer_jax.types import Array

# All taps share one matmul if a tap has fewer input channels, or the result at most so many rows.
NARROW, SHORT = 64, 6


class _Tap(NamedTuple):
    """A piece of the kernel."""

    u: int  # place among the pieces
    v: int
    rows: int  # size; below the stride for the last pieces of some kernels
    columns: int


def correlate(kernel: Array, stride: int, shape: Shape) -> Operation:
    """Return a convolution by a kernel [k, k, I, O] as a sum over taps.

    y[i, j] = sum_{u, v} x[s*i + u, s*j + v] k[u, v].

    Args:
        shape: of all images, [N, h, h, I].

    Returns:
        The operation [n, h, h, I] -> [n, out, out, O], where out = (h - k) // s + 1.
    """
    size, (k, _, channels, outputs) = shape[1], kernel.shape
    if size == k:
        flat = kernel.reshape(-1, outputs)
        return Operation(lambda x: (x.reshape(-1, flat.shape[0]) @ flat)[:, None, None], 0)
    out, taps = (size - k) // stride + 1, _taps(k, stride)
    weights = [_piece(kernel, tap, stride).reshape(-1, outputs) for tap in taps]
    together = _is_together(channels, stride, out)
    if together:
        weights = [jnp.concatenate(weights)]

    def compute(images: Array) -> Array:
        parts = _windows(images, out, taps, stride, together)
        products = (x.reshape(-1, x.shape[-1]) @ w for x, w in zip(parts, weights, strict=True))
        return sum(products).reshape(-1, out, out, outputs)

    width = (k if together else stride) ** 2 * channels  # columns of one matmul's windows
    return Operation(compute, out**2 * width)


def scatter(kernel: Array, stride: int, shape: Shape) -> Operation:
    """Return a transposed convolution as one matmul and an overlap-add of blocks.

    y[s*i + u, s*j + v] += x[i, j] k[u, v].

    Arguments are those of `correlate`.

    Returns:
        The operation [n, h, h, I] -> [n, side, side, O], where side = (h - 1) * s + k.
    """
    size, (k, _, channels, outputs) = shape[1], kernel.shape
    if size == 1:
        flat = kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
        return Operation(lambda x: (x.reshape(-1, channels) @ flat).reshape(-1, k, k, outputs), 0)
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
            fill = (0, stride - tap.rows), (0, stride - tap.columns)
            total += jnp.pad(column, ((0, 0), *shifts, *fill, (0, 0)))
        return depth_to_space(total, side)

    return Operation(compute, size**2 * weights.shape[1])


def kernel_grad(
    images: Array, grad: Array, k: int, stride: int, together: bool | None = None
) -> Array:
    """Return the gradient [k, k, I, O] of `correlate`'s kernel.

    dk[u, v] = sum_{n, i, j} x[s*i + u, s*j + v] g[i, j].

    Args:
        images: x, [n, h, h, I].
        grad: gradient g of the result, [n, out, out, O].
        k: side of the kernel.
        stride: s.
        together: whether all taps share one matmul; by default, as in `correlate`.
    """
    size, channels, out, outputs = *images.shape[2:], *grad.shape[2:]
    if size == k:
        flat = images.reshape(images.shape[0], -1).T @ grad.reshape(-1, outputs)
        return flat.reshape(k, k, channels, outputs)
    taps = _taps(k, stride)
    if together is None:
        together = _is_together(channels, stride, out)
    # In this order only the gradient is transposed, and once, instead of every part.
    grad = grad.reshape(-1, outputs).T
    parts = _windows(images, out, taps, stride, together)
    weights = jnp.concatenate([grad @ part.reshape(-1, part.shape[-1]) for part in parts], -1)
    return _join(weights.T, taps, k, channels)


def _taps(k: int, stride: int) -> list[_Tap]:
    """Cut a kernel into taps of stride x stride; the last are smaller if that does not divide k."""
    lengths = [min(stride, k - start) for start in range(0, k, stride)]
    cuts = list(enumerate(lengths))
    return [_Tap(u, v, rows, columns) for u, rows in cuts for v, columns in cuts]


def _piece(kernel: Array, tap: _Tap, stride: int) -> Array:
    """Return a tap of the kernel: [k, k, I, O] -> [rows, columns, I, O]."""
    top, left = tap.u * stride, tap.v * stride
    return kernel[top : top + tap.rows, left : left + tap.columns]


def _join(weights: Array, taps: list[_Tap], k: int, channels: int) -> Array:
    """Join the concatenated pieces of all taps: [k * k * I, O] -> [k, k, I, O]."""
    widths = [tap.rows * tap.columns * channels for tap in taps]
    parts = zip(taps, jax.lax.split(weights, widths), strict=True)
    pieces = [part.reshape(tap.rows, tap.columns, channels, -1) for tap, part in parts]
    across = taps[-1].v + 1
    rows = [pieces[i : i + across] for i in range(0, len(pieces), across)]
    return jnp.concatenate([jnp.concatenate(row, 1) for row in rows])


def _windows(images: Array, out: int, taps: list[_Tap], stride: int, together: bool) -> list[Array]:
    """Return the window of each tap, [n, out, out, channels], or their concatenation."""
    blocks = space_to_depth(images, out + taps[-1].u, stride)
    windows = []
    for u, v, rows, columns in taps:
        window = blocks[:, u : u + out, v : v + out, :rows, :columns]
        windows.append(window.reshape(-1, out, out, rows * columns * images.shape[3]))
    return [jnp.concatenate(windows, -1)] if together else windows


def _is_together(channels: int, stride: int, out: int) -> bool:
    return stride**2 * channels < NARROW or out <= SHORT
