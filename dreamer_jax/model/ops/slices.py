"""Helpers of the convolutions: space-to-depth, and images in slices.

Slices keep the unfolded images (im2col) within a share of the memory.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dreamer_jax.types import Array

Shape = tuple[int, ...]  # of images, [N, h, w, c]


class Operation(NamedTuple):
    """A function of images with the size of its temporaries."""

    compute: Callable[[Array], Array]  # images [n, ...] -> [n, ...]
    im2col_size: int  # numbers that it unfolds per image


def map_slices(
    fn: Callable[..., tuple[Array, Any]],
    arrays: Sequence[Array],
    operation: Operation,
    slice_bytes: int,
) -> tuple[Array, Any]:
    """Apply a function to arrays [N, ...], slice by slice.

    Args:
        fn: maps slices [n, ...] to a result [n, ...] and a tree of sums over the slice, to which
            rows of zeros must add nothing.
        operation: the operation that `fn` applies to each image.
        slice_bytes: memory that a slice may unfold.

    Returns:
        The results [N, ...], and the sums over all slices, accumulated in float32.
    """
    n = arrays[0].shape[0]
    bytes_per_image = operation.im2col_size * arrays[0].dtype.itemsize
    count = _count_slices(n, bytes_per_image, slice_bytes)
    if count == 1:
        return fn(*arrays)

    def step(totals: Any, entries: Sequence[Array]) -> tuple[Any, Array]:
        result, sums = fn(*entries)
        totals = jax.tree.map(lambda total, x: total + x.astype(total.dtype), totals, sums)
        # Without the barrier the last computation of a slice is fused with the copy into the
        # result, which XLA's CPU backend runs on one core.
        return totals, jax.lax.optimization_barrier(result)

    slices = [_split(array, count) for array in arrays]
    shapes = jax.eval_shape(fn, *(x[0] for x in slices))[1]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)
    totals, results = jax.lax.scan(step, zeros, slices)
    sums = jax.tree.map(lambda total, x: total.astype(x.dtype), totals, shapes)
    return results.reshape(-1, *results.shape[2:])[:n], sums


def crop_or_pad(images: Array, side: int) -> Array:
    """Crop or zero-pad the lower and right border: [n, h, w, c] -> [n, side, side, c]."""
    images = images[:, :side, :side]
    missing = side - images.shape[1]
    return jnp.pad(images, ((0, 0), (0, missing), (0, missing), (0, 0))) if missing else images


def space_to_depth(images: Array, blocks: int, stride: int) -> Array:
    """Cut images into blocks of pixels: [n, h, w, c] -> [n, blocks, blocks, stride, stride, c].

    The border is cropped or padded. The barrier keeps each reader of the blocks from gathering
    them from the images again, pixel by pixel.
    """
    images = crop_or_pad(images, blocks * stride)
    images = images.reshape(-1, blocks, stride, blocks, stride, images.shape[-1])
    return jax.lax.optimization_barrier(images.swapaxes(2, 3))


def depth_to_space(blocks: Array, side: int) -> Array:
    """Join blocks of pixels: [n, b, b, stride, stride, c] -> [n, side, side, c], border cropped."""
    n, count, _, stride, _, channels = blocks.shape
    images = blocks.swapaxes(2, 3).reshape(n, count * stride, count * stride, channels)
    return images[:, :side, :side]


def _count_slices(n: int, bytes_per_image: int, budget: int) -> int:
    """Return the fewest slices within the budget, or up to twice as many if they then divide n."""
    fewest = max(1, -(-n * bytes_per_image // budget))
    candidates = range(min(fewest, n), min(2 * fewest, n + 1))
    return next((count for count in candidates if n % count == 0), min(fewest, n))


def _split(array: Array, count: int) -> Array:
    """Split [N, ...] into [count, ceil(N / count), ...], padded with zeros."""
    size = -(-array.shape[0] // count)
    missing = count * size - array.shape[0]
    if missing:
        array = jnp.pad(array, ((0, missing), *((0, 0),) * (array.ndim - 1)))
    return array.reshape(count, size, *array.shape[1:])
