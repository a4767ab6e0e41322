"""What the formulations of convolutions share: images in slices, and blocks of pixels as channels.

What is unfolded for a multiplication should stay in the cache of a CPU, or within a share of an
accelerator's memory, so the images are worked through in slices.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dreamer_jax.types import Array

Shape = tuple[int, ...]  # of images, [N, h, w, c]

# Bytes that one slice may unfold on an accelerator, where large multiplications count, and memory.
DEVICE_SLICE = 2**29


class Operation(NamedTuple):
    """What is computed of images, and in what slices."""

    compute: Callable[[Array], Array]  # images [n, ...] -> [n, ...]
    unfolded: int  # numbers that it keeps per image
    cpu_slice: int  # bytes that a slice may unfold on a CPU


def map_slices(
    fn: Callable[..., tuple[Array, Any]], arrays: Sequence[Array], operation: Operation
) -> tuple[Array, Any]:
    """Apply `fn` to arrays [N, ...] in slices that are good for an operation.

    Args:
        fn: slices [n, ...] -> a result [n, ...], and a tree of sums over the slice, to which rows
            of zeros must add nothing.

    Returns:
        The results [N, ...], and the sums over all slices, added up in float32.
    """
    n = arrays[0].shape[0]
    count = _count_slices(n, operation, arrays[0].dtype.itemsize)
    if count == 1:
        return fn(*arrays)

    def step(totals: Any, entries: Sequence[Array]) -> tuple[Any, Array]:
        result, sums = fn(*entries)
        totals = jax.tree.map(lambda total, x: total + x.astype(total.dtype), totals, sums)
        # Without the barrier the last computation of a slice is fused with the copy into the
        # result, which XLA's CPU backend does on one core.
        return totals, jax.lax.optimization_barrier(result)

    slices = [_cut(array, count) for array in arrays]
    shapes = jax.eval_shape(fn, *(x[0] for x in slices))[1]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape), shapes)
    totals, results = jax.lax.scan(step, zeros, slices)
    sums = jax.tree.map(lambda total, x: total.astype(x.dtype), totals, shapes)
    return results.reshape(-1, *results.shape[2:])[:n], sums


def fit(images: Array, side: int) -> Array:
    """Cut or zero-pad the lower and right border to `side` pixels: [n, h, w, c] -> [n, s, s, c]."""
    images = images[:, :side, :side]
    missing = side - images.shape[1]
    return jnp.pad(images, ((0, 0), (0, missing), (0, missing), (0, 0))) if missing else images


def space_to_depth(images: Array, blocks: int, stride: int) -> Array:
    """[n, h, w, c] -> [n, blocks, blocks, stride, stride, c]; the border is cut or padded.

    With a barrier, as everything that reads the blocks would otherwise pick them from the images
    again, pixel by pixel.
    """
    images = fit(images, blocks * stride)
    images = images.reshape(-1, blocks, stride, blocks, stride, images.shape[-1])
    return jax.lax.optimization_barrier(images.swapaxes(2, 3))


def depth_to_space(blocks: Array, side: int) -> Array:
    """[n, b, b, stride, stride, c] -> [n, side, side, c], the rest of the border cut."""
    n, count, _, stride, _, channels = blocks.shape
    images = blocks.swapaxes(2, 3).reshape(n, count * stride, count * stride, channels)
    return images[:, :side, :side]


def _count_slices(n: int, operation: Operation, itemsize: int) -> int:
    """As few slices as keep to the budget, or somewhat more where the images then divide."""
    budget = operation.cpu_slice if jax.default_backend() == "cpu" else DEVICE_SLICE
    fewest = max(1, -(-n * operation.unfolded * itemsize // budget))
    some_more = range(min(fewest, n), min(2 * fewest, n + 1))
    return next((count for count in some_more if n % count == 0), min(fewest, n))


def _cut(array: Array, count: int) -> Array:
    """[N, ...] -> [count, N / count, ...], with zeros where N does not divide."""
    size = -(-array.shape[0] // count)
    missing = count * size - array.shape[0]
    if missing:
        array = jnp.pad(array, ((0, missing), *((0, 0),) * (array.ndim - 1)))
    return array.reshape(count, size, *array.shape[1:])
