"""The reading of observations as images, grids and vectors, and the reasons given to users."""

import functools
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np
from gymnasium import spaces

from dreamer_jax.errors import UsageError

Observation = dict[str, np.ndarray]
MIN_SIDE = 32  # pixels; boards of codes are smaller, and pictures that small are rare
MAX_CHANNELS = 16  # channels, or stacked frames
GRID_SIDES = range(3, MIN_SIDE)  # cells; the smallest is the kernel of the encoder
TOLERANCE = 1e-3  # share of the declared range by which a pixel may leave it


class _Image(NamedTuple):
    """The layout and range of an entry that is read as an image."""

    stacked: bool  # the first of four axes is a stack of frames
    channels_first: bool  # of each frame
    low: float
    high: float


class Leaf(NamedTuple):
    """An entry of the observation as the environment declares it, and how it is read."""

    key: str  # 'a/b', or 'image' or 'vector' if the observation has no parts
    path: tuple[Any, ...]  # ('a', 'b')
    space: spaces.Space
    image: _Image | None  # None: a grid or a vector
    reason: str  # for people
    is_grid: bool = False  # of cells that hold zeros and ones


class Reader:
    """How an environment's observations are checked and normalised.

    Args:
        space: as the environment declares it.
        size: height and width of images.
        images: pattern of the names of entries to read as images; None leaves it to the rules.
        vectors: pattern of the names of entries to read as vectors; None leaves it to the rules.
        grids: pattern of the names of entries to read as grids; None: no entry.

    Attributes:
        space: of what `read` returns, a Dict of Box.
        leaves: the entries that are read.
        readings: by entry, one line that says how it is read and why.

    Raises:
        UsageError: an entry cannot be read, or not in the way that a pattern asks for.
    """

    def __init__(
        self,
        space: spaces.Space,
        size: int,
        images: str | None = None,
        vectors: str | None = None,
        grids: str | None = None,
    ) -> None:
        self._source, self._size = space, size
        patterns = {"images": images, "vectors": vectors, "grids": grids}
        found = list(_leaves(space, (), patterns))
        self._parents = {leaf.path[:i] for leaf in found for i in range(len(leaf.path))}
        self.leaves = tuple(leaf for leaf in found if not _is_text(leaf.space))
        keys = [leaf.key for leaf in self.leaves]
        if not len(set(keys)) == len(keys) > 0:
            raise UsageError(f"the observation needs one or more distinct entries, not {keys}")
        for name, pattern in patterns.items():
            if pattern is not None and not any(re.fullmatch(pattern, key) for key in keys):
                raise UsageError(
                    f"config.env.{name} is {pattern!r}, which matches no entry of the observation "
                    f"in full; they are {', '.join(keys)}."
                )
        self.space = spaces.Dict({leaf.key: self._target(leaf) for leaf in self.leaves})
        self.readings = {leaf.key: self._describe(leaf) for leaf in found}

    def read(self, obs: Any) -> Observation:
        """Return an observation, checked and normalised."""
        self._check_parts(self._source, obs, ())
        result = {}
        for leaf in self.leaves:
            value = functools.reduce(lambda node, name: node[name], leaf.path, obs)
            if leaf.image is not None:
                result[leaf.key] = self._resized(leaf, value)
            elif leaf.is_grid:
                result[leaf.key] = _cells(leaf, value)
            else:
                result[leaf.key] = _flat(leaf.key, leaf.space, value)
        return result

    def _check_parts(self, space: spaces.Space, obs: Any, path: tuple[Any, ...]) -> None:
        """Check that the dictionaries and tuples above the leaves have the parts they declare."""
        if path not in self._parents:
            return
        label = f"observation {'/'.join(map(str, path))!r}" if path else "the observation"
        check_parts(label, space, obs)
        for name, entry in parts_of(space):
            self._check_parts(entry, obs[name], (*path, name))

    def _target(self, leaf: Leaf) -> spaces.Box:
        if leaf.is_grid:
            return spaces.Box(0, 1, grid_shape(leaf.space), np.bool_)
        if leaf.image is None:
            return spaces.Box(-np.inf, np.inf, (spaces.flatdim(leaf.space),), np.float32)
        channels = to_picture(leaf.image, np.empty(leaf.space.shape, bool)).shape[2]
        return spaces.Box(0, 255, (self._size, self._size, channels), np.uint8)

    def _resized(self, leaf: Leaf, value: Any) -> np.ndarray:
        value = _checked(leaf.key, leaf.space, value, is_image=True)
        picture = to_picture(leaf.image, _to_bytes(leaf, value))
        size = (self._size, self._size)
        if picture.shape[:2] == size:
            return picture
        # OpenCV resizes by area up to four channels, and drops the axis of a single one.
        groups = np.split(picture, range(4, picture.shape[2], 4), 2)
        resized = [
            cv2.resize(np.ascontiguousarray(group), size, interpolation=cv2.INTER_AREA)
            for group in groups
        ]
        return np.concatenate([group.reshape(*size, -1) for group in resized], 2)

    def _describe(self, leaf: Leaf) -> str:
        if _is_text(leaf.space):
            return f"observation {leaf.key!r} is text and is left out"
        shape = self.space[leaf.key].shape
        kind = f"a vector of {shape[0]}" if leaf.image is None else f"an image {_times(shape)}"
        if leaf.is_grid:
            kind = f"a grid {_times(shape)}"
        return f"observation {leaf.key!r}, {_name(leaf.space)}, is read as {kind}: {leaf.reason}"


def _name(space: spaces.Space) -> str:
    if isinstance(space, spaces.Box):
        return f"{space.dtype} {_times(space.shape)}"
    return f"a {type(space).__name__} space"


def _times(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _leaves(
    space: spaces.Space, path: tuple[Any, ...], patterns: dict[str, str | None]
) -> Iterator[Leaf]:
    if isinstance(space, spaces.Dict) or (isinstance(space, spaces.Tuple) and _has_parts(space)):
        for name, entry in parts_of(space):
            yield from _leaves(entry, (*path, name), patterns)
        return
    image, reason = _read(space)
    key = "/".join(map(str, path)) or ("vector" if image is None else "image")
    if _is_text(space):
        yield Leaf(key, path, space, None, "")
        return
    length = _length(space)
    if length is None:
        raise UsageError(
            f"observation {key!r} has no fixed length: {space} is not supported; wrap the "
            "environment in one that pads it to a Box, or leaves it out."
        )
    if not length:
        raise UsageError(f"observation {key!r} is empty: {space} is not supported; leave it out.")
    asked = [name for name, p in patterns.items() if p is not None and re.fullmatch(p, key)]
    if len(asked) > 1:
        both = " and ".join(f"config.env.{name}" for name in asked[:2])
        raise UsageError(f"{both} both match {key!r}.")
    if asked == ["grids"]:
        yield _forced_grid(key, path, space)
        return
    if asked == ["images"]:
        image, reason = _forced(key, space)
    if asked == ["vectors"]:
        image, reason = None, "config.env.vectors"
    yield Leaf(key, path, space, image, reason)


def _is_text(space: spaces.Space) -> bool:
    return space.dtype is not None and space.dtype.kind == "U"  # Text, or MiniGrid's missions


def _length(space: spaces.Space) -> int | None:
    """Return the length of a space's values as vectors, None if it has no fixed one."""
    try:
        return spaces.flatdim(space) if space.is_np_flattenable else None
    except NotImplementedError:  # a kind of space that gymnasium does not know
        return None


def parts_of(space: spaces.Dict | spaces.Tuple) -> list[tuple[Any, spaces.Space]]:
    """Return the spaces in a Dict or Tuple, each with its key or index, in order."""
    items = space.items() if isinstance(space, spaces.Dict) else enumerate(space.spaces)
    return list(items)


def _has_parts(space: spaces.Space) -> bool:
    """Return whether a space has an image, or a text, beside or inside of which vectors lie."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        return any(_has_parts(entry) for _, entry in parts_of(space))
    return _is_text(space) or _read(space)[0] is not None


def _read(space: spaces.Space) -> tuple[_Image | None, str]:
    """Decide by a space alone whether it is an image; also return the reason."""
    if not isinstance(space, spaces.Box) or len(space.shape) < 2:
        return None, "it has no pixels"
    otherwise = "; config.env.images decides otherwise"
    values = _value_range(space)
    if values is None:
        return None, f"its bounds are not those of pixels, 0 to 255 or 0 to 1{otherwise}"
    layout = _find_layout(space.shape)
    if layout is None:
        return None, (
            f"it has no two sides of at least {MIN_SIDE} pixels with at most {MAX_CHANNELS} "
            f"channels, so it may be a board of codes{otherwise}"
        )
    image = _Image(*layout, *values)
    return image, f"{_how(space, image)}; config.env.vectors decides otherwise"


def _value_range(space: spaces.Box) -> tuple[float, float] | None:
    """Return the values of black and white, if the space has those of pixels."""
    if space.dtype == np.uint8:
        return 0.0, 255.0
    low, high = space.low.flat[0], space.high.flat[0]
    uniform = (space.low == low).all() and (space.high == high).all()
    whites = (1, 255) if space.dtype.kind == "f" else (255,)
    return (0.0, float(high)) if uniform and low == 0 and high in whites else None


def _find_layout(shape: tuple[int, ...]) -> tuple[bool, bool] | None:
    """Return whether the first axis is a stack of frames and the next one the channels.

    An axis is pixels or channels by its length, so that no shape can be read in two ways.
    """
    pixels = [MIN_SIDE <= length for length in shape]
    few = [length <= MAX_CHANNELS for length in shape]
    if len(shape) == 4:
        inner = _find_layout(shape[1:])
        return (True, inner[1]) if few[0] and inner is not None else None
    if len(shape) == 3 and few[0] and all(pixels[1:]):
        return False, True
    if len(shape) in (2, 3) and all(pixels[:2]) and all(few[2:]):
        return False, False
    return None


def _forced(key: str, space: spaces.Space) -> tuple[_Image, str]:
    """Return how an entry is read as an image that a config key names."""
    if not isinstance(space, spaces.Box) or not 2 <= len(space.shape) <= 4:
        raise UsageError(
            f"config.env.images matches {key!r}, which cannot be an image: it must be a Box with "
            f"2 axes, 3 with the channels, or 4 with a stack of frames, not {space}."
        )
    layout = _find_layout(space.shape)
    if layout is None:  # the channels are the shorter of the two axes that can be
        frame = space.shape[-3:]
        layout = len(space.shape) == 4, len(frame) == 3 and frame[0] < frame[2]
    low, high = float(space.low.min()), float(space.high.max())
    if not (np.isfinite(high - low) and low < high):
        raise UsageError(
            f"config.env.images matches {key!r}, which has no finite bounds; declare as low and "
            f"high what is black and white: {space}."
        )
    image = _Image(*layout, low, high)
    return image, f"config.env.images; {_how(space, image)}"


def _forced_grid(key: str, path: tuple[Any, ...], space: spaces.Space) -> Leaf:
    """Return how an entry is read as a grid that a config key names."""
    is_box = isinstance(space, spaces.Box) and (space.low == 0).all() and (space.high == 1).all()
    sides = f"sides of {GRID_SIDES[0]} to {GRID_SIDES[-1]} cells"
    has_sides = len(space.shape or ()) in (2, 3) and all(n in GRID_SIDES for n in space.shape[:2])
    if not (is_box or isinstance(space, spaces.MultiBinary)) or not has_sides:
        raise UsageError(
            f"config.env.grids matches {key!r}, which cannot be a grid: it must be a Box from 0 to "
            f"1, or MultiBinary, with two {sides}, which channels may follow, not {space}."
        )
    return Leaf(key, path, space, None, "config.env.grids", is_grid=True)


def grid_shape(space: spaces.Space) -> tuple[int, int, int]:
    """Return the height, width and channels of a space that is read as a grid."""
    height, width, *channels = space.shape
    return height, width, *(channels or (1,))


def _how(space: spaces.Box, image: _Image) -> str:
    axes = "no channel axis" if len(space.shape) == 2 else "channels last"
    if image.channels_first:
        axes = "channels first"
    if image.stacked:
        axes = f"{space.shape[0]} frames stacked as channels, each with {axes}"
    if (image.low, image.high) == (0, 255):
        return f"{axes}, values from 0 to 255"
    return f"{axes}, values from {image.low:g} to {image.high:g} scaled to 0 to 255"


def to_picture(image: _Image, value: np.ndarray) -> np.ndarray:
    """Return an array with the axes height, width, channels, of NumPy or JAX like `value`."""
    value = value if value.ndim > 2 else value[..., None]
    if image.channels_first:
        value = np.moveaxis(value, -3, -1)
    if image.stacked:
        value = np.moveaxis(value, 0, 2)
        value = value.reshape(*value.shape[:2], -1)
    return value


def holds_bytes(leaf: Leaf) -> bool:
    """Return whether the values of an image are those of a picture already, 0 to 255 in uint8."""
    return leaf.space.dtype == np.uint8 and (leaf.image.low, leaf.image.high) == (0, 255)


def _to_bytes(leaf: Leaf, value: np.ndarray) -> np.ndarray:
    if holds_bytes(leaf):
        return value
    low, high = leaf.image.low, leaf.image.high
    slack = TOLERANCE * (high - low) if leaf.space.dtype.kind == "f" else 0
    smallest, largest = value.min(), value.max()
    if not (low - slack <= smallest and largest <= high + slack):  # also False for NaN
        raise ValueError(
            f"observation {leaf.key!r} has values from {smallest} to {largest}, outside of the "
            f"declared {low:g} to {high:g}"
        )
    share = (value.astype(np.float64) - low) / (high - low)
    return np.rint(255 * np.clip(share, 0, 1)).astype(np.uint8)


def check_parts(label: str, space: spaces.Dict | spaces.Tuple, value: Any) -> None:
    """Raise a ValueError unless a dictionary or tuple has the parts that its space declares."""
    if isinstance(space, spaces.Dict):
        if not isinstance(value, dict):
            raise ValueError(f"{label} is a {type(value).__name__}, not a dictionary")
        if set(value) != set(space):
            raise ValueError(f"{label} has the keys {sorted(value)} but declares {sorted(space)}")
    elif not isinstance(value, (tuple, list)) or len(value) != len(space):
        kind = type(value).__name__
        raise ValueError(f"{label} is a {kind}, not a tuple of {len(space)} entries")


def check_box(key: str, space: spaces.Box, value: Any, *, is_image: bool = False) -> None:
    """Raise a ValueError unless an array, of NumPy or JAX, has the shape and dtype of its space."""
    if value.shape != space.shape:
        raise ValueError(f"observation {key!r} changed shape from {space.shape} to {value.shape}")
    # Many environments declare float32 and return float64; bytes of images must be as declared.
    exact = is_image and space.dtype == np.uint8
    if not np.can_cast(value.dtype, space.dtype, "equiv" if exact else "same_kind"):
        raise ValueError(f"observation {key!r} changed dtype from {space.dtype} to {value.dtype}")


def _checked(key: str, space: spaces.Space, value: Any, *, is_image: bool = False) -> Any:
    """Return a value that its space declares; those of a Box as an array."""
    if isinstance(space, spaces.Box):
        value = np.asarray(value)
        check_box(key, space, value, is_image=is_image)
    elif not space.contains(value):
        raise ValueError(f"observation {key!r} is {value!r}, outside {space}")
    return value


def _cells(leaf: Leaf, value: Any) -> np.ndarray:
    """Return a grid, bool [H, W, C]."""
    value = np.asarray(_checked(leaf.key, leaf.space, value))
    filled = value == 1
    if not (filled | (value == 0)).all():
        raise ValueError(
            f"observation {leaf.key!r} is read as a grid and must hold zeros and ones, not {value}"
        )
    return filled.reshape(grid_shape(leaf.space))


def _flat(key: str, space: spaces.Space, value: Any) -> np.ndarray:
    """Return a vector, float32 [V]."""
    with np.errstate(over="ignore"):  # infinite values are reported below
        numbers = [np.asarray(x, np.float32).reshape(-1) for x in _numbers(key, space, value)]
    flat = np.concatenate(numbers)
    if not np.isfinite(flat).all():
        raise ValueError(f"observation {key!r} is not finite: {flat}")
    return flat


def _numbers(key: str, space: spaces.Space, value: Any) -> Iterator[np.ndarray]:
    """Yield the parts of a vector, in the order of `spaces.flatten`."""
    if isinstance(space, (spaces.Dict, spaces.Tuple)):
        check_parts(f"observation {key!r}", space, value)
        for name, entry in parts_of(space):
            yield from _numbers(f"{key}/{name}", entry, value[name])
    else:
        value = _checked(key, space, value)
        # `flatten` would cast to the declared type, in which integers wrap.
        yield value if isinstance(space, spaces.Box) else spaces.flatten(space, value)
