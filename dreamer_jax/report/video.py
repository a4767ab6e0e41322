"""Write GIFs: open-loop predictions beside the truth, and episodes."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dreamer_jax.files import replacing

if TYPE_CHECKING:
    from PIL.Image import Image

# Colours around the predicted row, distinguishable with any colour vision.
CONTEXT = (86, 180, 233)
OPEN_LOOP = (230, 159, 0)
BACKGROUND = (24, 24, 27)
LABELS = ("true", "model", "error")
TEXT = (225, 225, 225)
BORDER = 2  # pixels
GAP = 6  # pixels between cells
MARGIN = 18  # pixels left and above, for labels
MAX_FPS = 50  # viewers slow a GIF of less than 20 ms per frame down to 100 ms


class OpenLoopVideo(NamedTuple):
    """An open-loop video of a run, identified by its file name."""

    env_step: int
    member: int
    key: str  # of the observation, with "_" for "/"
    path: Path


def open_loop_path(directory: Path, key: str, env_step: int, member: int) -> Path:
    """Return the path of an open-loop video in a run's directory of videos."""
    return directory / f"open_loop_{key}_{env_step:09d}_member{member}.gif".replace("/", "_")


def open_loop_videos(directory: Path) -> list[OpenLoopVideo]:
    """Return the open-loop videos in a directory, which need not exist, oldest first."""
    found = []
    for path in directory.glob("open_loop_*.gif"):
        match = re.fullmatch(r"open_loop_(.+)_(\d{9,})_member(\d+)\.gif", path.name)
        if match:
            found.append(OpenLoopVideo(int(match[2]), int(match[3]), match[1], path))
    return sorted(found)


def open_loop_gif(
    truth: np.ndarray,
    prediction: np.ndarray,
    path: str | Path,
    *,
    context: int,
    fps: float = 8,
    scale: int = 2,
) -> None:
    """Write a looping GIF with three rows: the truth, the prediction and the error.

    The error is (prediction - truth + 1) / 2: grey where they agree. The predicted row is framed
    in blue during the context, where the model sees the images, and in orange afterwards.

    Args:
        truth: [N, T, H, W, C], N examples side by side, C 1 or 3; uint8, or float in [0, 1].
        prediction: of the same shape; uint8 or float. Floats are clipped to [0, 1], and non-finite
            ones are black.
        path: the GIF, replaced atomically; its directory must exist.
        context: the number of initial frames, 0..T, that are reconstructions.
        fps: frames per second, 1..50.
        scale: a whole number; each pixel becomes scale x scale pixels.

    Raises:
        ValueError: a shape, type or range is another.
    """
    if np.shape(prediction) != np.shape(truth):
        raise ValueError(
            f"prediction has shape {np.shape(prediction)}, truth has {np.shape(truth)}"
        )
    _check_images("truth", truth, "NTHWC")
    _check_images("prediction", prediction, "NTHWC")
    length = truth.shape[1]
    if not 0 <= context <= length:
        raise ValueError(f"context must be in 0..{length}, the length of truth, got {context}")
    if scale < 1 or scale != int(scale):
        raise ValueError(f"scale must be a whole number of at least 1, got {scale}")
    duration = _frame_ms(fps)
    truth = _unit("truth", truth)
    # Tolerates the rounding of a shift to [-0.5, 0.5] and back; negated so that NaN fails too.
    if not (truth.min() >= -1e-3 and truth.max() <= 1 + 1e-3):
        raise ValueError(f"truth must be in [0, 1], got [{truth.min():g}, {truth.max():g}]")
    prediction = np.clip(np.nan_to_num(_unit("prediction", prediction), posinf=0, neginf=0), 0, 1)
    grids = _grids(_rows(truth, prediction, int(scale)), int(context))
    label = _labeller(grids[0].shape)
    captions = [
        f"context {t + 1}/{context}" if t < context else f"open loop +{t + 1 - context}"
        for t in range(length)
    ]
    _save([label(*pair) for pair in zip(grids, captions, strict=True)], path, duration)


def episode_gif(frames: np.ndarray, path: str | Path, fps: float = 15) -> None:
    """Write the frames of an episode as a looping GIF.

    Args:
        frames: uint8 [T, H, W, C], C 1 or 3.
        path: the GIF, replaced atomically; its directory must exist.
        fps: frames per second, 1..50.

    Raises:
        ValueError: a shape, type or range is another.
    """
    _check_images("frames", frames, "THWC")
    if frames.dtype != np.uint8:
        raise ValueError(f"frames must be uint8, not {frames.dtype}")
    from PIL import Image

    duration = _frame_ms(fps)
    frames = np.broadcast_to(frames, (*frames.shape[:-1], 3))
    _save([Image.fromarray(frame) for frame in np.ascontiguousarray(frames)], path, duration)


def _check_images(name: str, images: np.ndarray, axes: str) -> None:
    shape = np.shape(images)
    if len(shape) != len(axes) or 0 in shape or shape[-1] not in (1, 3):
        raise ValueError(f"{name} must be [{', '.join(axes)}], C 1 or 3, none empty; got {shape}")


def _unit(name: str, images: np.ndarray) -> np.ndarray:
    """Return uint8 or float images as float32; 255 becomes 1."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / 255
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"{name} must be uint8 or float, not {images.dtype}")
    return images.astype(np.float32)


def _frame_ms(fps: float) -> int:
    if not 1 <= fps <= MAX_FPS:
        raise ValueError(f"fps must be in 1..{MAX_FPS}, got {fps}")
    # A GIF counts hundredths of a second.
    return 10 * round(100 / fps)


def _rows(truth: np.ndarray, prediction: np.ndarray, scale: int) -> np.ndarray:
    """Return truth, prediction and error as uint8 [3, N, T, H * scale, W * scale, 3]."""
    rows = np.stack([truth, prediction, (prediction - truth + 1) / 2])
    rows = np.round(255 * rows).astype(np.uint8).repeat(scale, axis=3).repeat(scale, axis=4)
    return np.broadcast_to(rows, (*rows.shape[:-1], 3))


def _grids(rows: np.ndarray, context: int) -> list[np.ndarray]:
    """Return T pictures uint8 [height, width, 3] of three rows of N framed cells."""
    grids = []
    for t in range(rows.shape[2]):
        frame = CONTEXT if t < context else OPEN_LOOP
        colours = (BACKGROUND, frame, BACKGROUND)
        lines = [_line(rows[row, :, t], colours[row]) for row in range(3)]
        grids.append(np.concatenate(lines, axis=0))
    return grids


def _line(images: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """Return N images side by side, each with a border, and a gap to its right and below."""
    number, height, width, _ = images.shape
    framed_height, framed_width = height + 2 * BORDER, width + 2 * BORDER
    cells = np.full((number, framed_height + GAP, framed_width + GAP, 3), BACKGROUND, np.uint8)
    cells[:, :framed_height, :framed_width] = colour
    cells[:, BORDER : BORDER + height, BORDER : BORDER + width] = images
    return np.concatenate(list(cells), axis=1)


def _labeller(shape: tuple[int, ...]) -> "Callable[[np.ndarray, str], Image]":
    """Return a function that makes a picture of a grid and a caption.

    The picture has the names of the rows on the left and the caption above, unless the cells are
    too small for them.
    """
    from PIL import Image, ImageDraw, ImageFont

    height, width = shape[0] // len(LABELS), shape[1]
    fits = height >= 48 and width >= 110
    left, top = (MARGIN, MARGIN) if fits else (GAP, GAP)
    blank = Image.new("RGB", (width + left, shape[0] + top), BACKGROUND)
    if not fits:
        return lambda grid, caption: _pasted(blank, grid, left, top)
    font = ImageFont.load_default(size=11)
    for row, name in enumerate(LABELS):
        text = Image.new("RGB", (height - GAP, MARGIN), BACKGROUND)
        ImageDraw.Draw(text).text(
            (text.width / 2, MARGIN / 2), name, fill=TEXT, font=font, anchor="mm"
        )
        blank.paste(text.rotate(90, expand=True), (0, top + row * height))

    def label(grid: np.ndarray, caption: str) -> "Image":
        picture = _pasted(blank, grid, left, top)
        place = (left, MARGIN / 2)
        ImageDraw.Draw(picture).text(place, caption, fill=TEXT, font=font, anchor="lm")
        return picture

    return label


def _pasted(blank: "Image", grid: np.ndarray, left: int, top: int) -> "Image":
    from PIL import Image

    picture = blank.copy()
    picture.paste(Image.fromarray(grid), (left, top))
    return picture


def _save(frames: "Sequence[Image]", path: str | Path, duration: int) -> None:
    """Write a GIF of `duration` ms per frame. Equal neighbours become one longer frame."""
    with replacing(path) as temporary:
        frames[0].save(
            temporary,
            format="GIF",
            save_all=True,
            append_images=frames[1:],
            duration=duration,
            loop=0,
        )
