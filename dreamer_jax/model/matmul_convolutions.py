"""Convolutions as matrix multiplications, with gradients of their own.

A convolution, its transpose and their gradients are three operations: `_correlate`, `_scatter` and
`_kernel_grad`. Each works through the images in slices, so that what it unfolds stays in the cache
of a CPU, or within a share of an accelerator's memory.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dreamer_jax.types import Array

# Bytes that one slice may unfold. On a CPU they should stay in the cache: 2 to 3 times as fast as
# all images at once. Elsewhere large multiplications count, and memory.
CPU_SLICE, DEVICE_SLICE = 8 * 2**20, 2**29
NARROW = 64  # channels of a tap below which all taps make one multiplication


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_matmul(images: Array, kernel: Array, stride: int) -> Array:
    """`conv_lax` as matrix multiplications of shifted slices, see `_correlate`."""
    return _correlate(images, kernel, stride)


def _conv_forward(images: Array, kernel: Array, stride: int):
    return _correlate(images, kernel, stride), (images, kernel)


def _conv_backward(stride: int, saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    images, kernel = saved
    grad_images = _scatter(grad, kernel.swapaxes(2, 3), stride)
    return _fit(grad_images, images.shape[1]), _kernel_grad(images, grad, kernel.shape[0], stride)


conv_matmul.defvjp(_conv_forward, _conv_backward)


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def conv_transpose_matmul(images: Array, kernel: Array, stride: int) -> Array:
    """`conv_transpose_lax` as a matrix multiplication and an overlap-add, see `_scatter`."""
    return _scatter(images, kernel, stride)


def _conv_transpose_forward(images: Array, kernel: Array, stride: int):
    return _scatter(images, kernel, stride), (images, kernel)


def _conv_transpose_backward(
    stride: int, saved: tuple[Array, Array], grad: Array
) -> tuple[Array, Array]:
    images, kernel = saved
    grad_kernel = _kernel_grad(grad, images, kernel.shape[0], stride).swapaxes(2, 3)
    return _correlate(grad, kernel.swapaxes(2, 3), stride), grad_kernel


conv_transpose_matmul.defvjp(_conv_transpose_forward, _conv_transpose_backward)


class _Tap(NamedTuple):
    """A piece of the kernel: where among the pieces it is, and how many rows and columns it has."""

    u: int
    v: int
    rows: int
    columns: int


def _correlate(images: Array, kernel: Array, stride: int) -> Array:
    """y[i, j] = sum_{u, v} x[s*i + u, s*j + v] k[u, v]: space-to-depth, and a sum over taps.

    Blocks of stride x stride pixels become channels, and the kernel is cut into taps of as many;
    each multiplies one shifted slice of the blocks.
    """
    size, k, outputs = images.shape[1], kernel.shape[0], kernel.shape[3]
    if size == k:
        flat = images.reshape(images.shape[0], -1) @ kernel.reshape(-1, outputs)
        return flat[:, None, None]
    out, taps = (size - k) // stride + 1, _taps(k, stride)
    weights = [_piece(kernel, tap, stride).reshape(-1, outputs) for tap in taps]
    narrow = _is_narrow(images, stride)
    if narrow:
        weights = [jnp.concatenate(weights)]

    def some(images: Array) -> Array:
        parts = _shifted(images, out, taps, stride, narrow)
        products = (x.reshape(-1, x.shape[-1]) @ w for x, w in zip(parts, weights, strict=True))
        return sum(products).reshape(-1, out, out, outputs)

    return _map_slices(some, images, out**2 * _width(images, k, stride))


def _scatter(images: Array, kernel: Array, stride: int) -> Array:
    """y[s*i + u, s*j + v] += x[i, j] k[u, v]: one multiplication, and an overlap-add of blocks."""
    n, size, _, channels = images.shape
    k, outputs = kernel.shape[0], kernel.shape[3]
    if size == 1:
        flat = images.reshape(n, channels) @ kernel.transpose(2, 0, 1, 3).reshape(channels, -1)
        return flat.reshape(n, k, k, outputs)
    taps, side = _taps(k, stride), (size - 1) * stride + k
    pieces = [_piece(kernel, tap, stride).transpose(2, 0, 1, 3) for tap in taps]
    weights = jnp.concatenate([piece.reshape(channels, -1) for piece in pieces], -1)
    last = taps[-1]

    def some(images: Array) -> Array:
        columns = images @ weights
        widths = [tap.rows * tap.columns * outputs for tap in taps]
        total = 0.0
        for tap, column in zip(taps, jax.lax.split(columns, widths, axis=3), strict=True):
            column = column.reshape(*column.shape[:3], tap.rows, tap.columns, outputs)
            shifts = (tap.u, last.u - tap.u), (tap.v, last.v - tap.v)
            rest = (0, stride - tap.rows), (0, stride - tap.columns)
            total += jnp.pad(column, ((0, 0), *shifts, *rest, (0, 0)))
        return _depth_to_space(total, side)

    return _map_slices(some, images, size**2 * weights.shape[1])


def _kernel_grad(images: Array, grad: Array, k: int, stride: int) -> Array:
    """dk[u, v] = sum_{n, i, j} x[s*i + u, s*j + v] g[i, j], as `_correlate` with its output."""
    size, channels, out, outputs = *images.shape[2:], *grad.shape[2:]
    if size == k:
        flat = images.reshape(images.shape[0], -1).T @ grad.reshape(-1, outputs)
        return flat.reshape(k, k, channels, outputs)
    taps, narrow = _taps(k, stride), _is_narrow(images, stride)

    def some(images: Array, grad: Array) -> Array:
        # In this order the gradient is transposed once, and none of the parts is.
        grad = grad.reshape(-1, outputs).T
        parts = _shifted(images, out, taps, stride, narrow)
        return jnp.concatenate([grad @ part.reshape(-1, part.shape[-1]) for part in parts], -1)

    weights = _sum_slices(some, images, grad, out**2 * _width(images, k, stride)).T
    return _join(weights, taps, k, channels)


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
    blocks = _space_to_depth(images, out + taps[-1].u, stride)
    slices = []
    for u, v, rows, columns in taps:
        window = blocks[:, u : u + out, v : v + out, :rows, :columns]
        slices.append(window.reshape(-1, out, out, rows * columns * images.shape[3]))
    return [jnp.concatenate(slices, -1)] if narrow else slices


def _is_narrow(images: Array, stride: int) -> bool:
    return stride**2 * images.shape[3] < NARROW


def _width(images: Array, k: int, stride: int) -> int:
    """Channels of what is multiplied at once: of one tap, or of all."""
    return (k if _is_narrow(images, stride) else stride) ** 2 * images.shape[3]


def _map_slices(fn: Callable[[Array], Array], images: Array, unfolded: int) -> Array:
    """`fn` of images [N, ...] -> [N, ...], slice by slice. Args: unfolded: numbers per image."""
    count = _count_slices(images, unfolded)
    if count == 1:
        return fn(images)
    results = jax.lax.map(fn, _cut(images, count))
    return results.reshape(-1, *results.shape[2:])[: images.shape[0]]


def _sum_slices(
    fn: Callable[[Array, Array], Array], images: Array, grad: Array, unfolded: int
) -> Array:
    """The sum of `fn` over slices of images and gradients [N, ...], in float32 between slices."""
    count = _count_slices(images, unfolded)
    if count == 1:
        return fn(images, grad)

    def add(total: Array, entry: tuple[Array, Array]) -> tuple[Array, None]:
        return total + fn(*entry).astype(total.dtype), None

    shape = jax.eval_shape(fn, images[:1], grad[:1]).shape
    total, _ = jax.lax.scan(add, jnp.zeros(shape), (_cut(images, count), _cut(grad, count)))
    return total.astype(images.dtype)


def _count_slices(images: Array, unfolded: int) -> int:
    """As few slices as keep to the budget, or somewhat more where the images then divide."""
    budget = CPU_SLICE if jax.default_backend() == "cpu" else DEVICE_SLICE
    n = images.shape[0]
    fewest = max(1, -(-n * unfolded * images.dtype.itemsize // budget))
    some_more = range(min(fewest, n), min(2 * fewest, n + 1))
    return next((count for count in some_more if n % count == 0), min(fewest, n))


def _cut(array: Array, count: int) -> Array:
    """[N, ...] -> [count, N / count, ...], with zeros where N does not divide."""
    size = -(-array.shape[0] // count)
    missing = count * size - array.shape[0]
    if missing:
        array = jnp.pad(array, ((0, missing), *((0, 0),) * (array.ndim - 1)))
    return array.reshape(count, size, *array.shape[1:])


def _fit(images: Array, side: int) -> Array:
    """Cut or zero-pad the lower and right border to `side` pixels."""
    images = images[:, :side, :side]
    missing = side - images.shape[1]
    return jnp.pad(images, ((0, 0), (0, missing), (0, missing), (0, 0))) if missing else images


def _space_to_depth(images: Array, blocks: int, stride: int) -> Array:
    """[n, h, w, c] -> [n, blocks, blocks, stride, stride, c]; the border is cut or padded."""
    images = _fit(images, blocks * stride)
    images = images.reshape(-1, blocks, stride, blocks, stride, images.shape[-1])
    return images.swapaxes(2, 3)


def _depth_to_space(blocks: Array, side: int) -> Array:
    """[n, b, b, stride, stride, c] -> [n, side, side, c], the rest of the border cut."""
    n, count, _, stride, _, channels = blocks.shape
    images = blocks.swapaxes(2, 3).reshape(n, count * stride, count * stride, channels)
    return images[:, :side, :side]
