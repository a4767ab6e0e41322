"""What the formulations of convolutions share: images in slices, and blocks of pixels as channels.

What is unfolded for a multiplication should stay in the cache of a CPU, or within a share of an
accelerator's memory, so the images are worked through in slices.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dreamer_jax.types import Array

# Bytes that one slice may unfold on an accelerator, where large multiplications count, and memory.
DEVICE_SLICE = 2**29


def map_slices(fn: Callable[[Array], Array], images: Array, unfolded: int, cpu_slice: int) -> Array:
    """`fn` of images [N, ...] -> [N, ...], slice by slice.

    Args:
        unfolded: numbers that `fn` keeps per image; cpu_slice: bytes of a slice on a CPU.
    """
    count = _count_slices(images, unfolded, cpu_slice)
    if count == 1:
        return fn(images)
    # Without the barrier the last computation of a slice is fused with the copy into the result,
    # which XLA's CPU backend does on one core.
    results = jax.lax.map(lambda x: jax.lax.optimization_barrier(fn(x)), _cut(images, count))
    return results.reshape(-1, *results.shape[2:])[: images.shape[0]]


def sum_slices(
    fn: Callable[[Array, Array], Array], images: Array, grad: Array, unfolded: int, cpu_slice: int
) -> Array:
    """The sum of `fn` over slices of images and gradients [N, ...], in float32 between slices.

    Arguments as of `map_slices`; zeros must add nothing to the sum.
    """
    count = _count_slices(images, unfolded, cpu_slice)
    if count == 1:
        return fn(images, grad)

    def add(total: Array, entry: tuple[Array, Array]) -> tuple[Array, None]:
        return total + fn(*entry).astype(total.dtype), None

    shape = jax.eval_shape(fn, images[:1], grad[:1]).shape
    total, _ = jax.lax.scan(add, jnp.zeros(shape), (_cut(images, count), _cut(grad, count)))
    return total.astype(images.dtype)


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


def _count_slices(images: Array, unfolded: int, cpu_slice: int) -> int:
    """As few slices as keep to the budget, or somewhat more where the images then divide."""
    budget = cpu_slice if jax.default_backend() == "cpu" else DEVICE_SLICE
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
