"""Write GIFs: open-loop predictions beside the truth, and episodes."""

import contextlib
import json
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dreamer_jax.files import replacing
from dreamer_jax.report.metrics_log import parse_json
from dreamer_jax.report.scores.score import is_number

if TYPE_CHECKING:
    from PIL.Image import Image

# Colours around cells, distinguishable with any colour vision.
CONTEXT = (86, 180, 233)
OPEN_LOOP = (230, 159, 0)
IMAGINED = (0, 158, 115)
INTERRUPTED = (204, 121, 167)
BACKGROUND = (24, 24, 27)
LABELS = ("true", "model", "error", "policy")
TEXT = (225, 225, 225)
BORDER = 2  # pixels
GAP = 6  # pixels between cells
MARGIN = 18  # pixels left and above, for labels
OPEN_LOOP_MS, EPISODE_MS = 120, 70  # per frame; a GIF counts hundredths of a second


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
    with contextlib.suppress(OSError):
        return sorted(
            OpenLoopVideo(int(match[2]), int(match[3]), match[1], directory / match[0])
            for match in _matches(directory, r"open_loop_(.+)_(\d{9,})_member(\d+)\.gif")
        )
    return []


def _matches(directory: Path, pattern: str) -> list[re.Match]:
    """Return the names in a directory that match in full; OSError if it cannot be listed."""
    names = os.listdir(directory) if os.path.lexists(directory) else []
    return [match for name in names if (match := re.fullmatch(pattern, name))]


class OpenLoopErrors(NamedTuple):
    """Errors of a member's open-loop predictions."""

    env_step: int
    context: int  # steps of which the error is that of a reconstruction
    error: Mapping[str, Sequence[float | None]]  # by entry, one per step; None: nothing to compare


def write_errors(
    directory: Path, env_step: int, member: int, error: Mapping[str, np.ndarray], context: int
) -> None:
    """Write open-loop errors [T] by entry beside the videos, for `newest_errors`."""
    numbers = {
        name: [float(x) if math.isfinite(x) else None for x in values]
        for name, values in error.items()
    }
    with replacing(directory / f"open_loop_{env_step:09d}_member{member}.json") as temporary:
        temporary.write_text(json.dumps({"context": context, "error": numbers}) + "\n")


def newest_errors(directory: Path, on_bad: Callable[[str], None]) -> dict[int, OpenLoopErrors]:
    """Return every member's newest open-loop errors in a directory, which need not exist.

    Args:
        on_bad: called with a message for each file that cannot be read and is left out.
    """
    newest: dict[int, tuple[int, Path]] = {}
    found: dict[int, OpenLoopErrors] = {}
    try:
        matches = _matches(directory, r"open_loop_(\d{9,})_member(\d+)\.json")
    except OSError as error:
        on_bad(f"{directory}: {error.strerror}")
        return found
    for match in matches:
        member, place = int(match[2]), (int(match[1]), directory / match[0])
        newest[member] = max(newest.get(member, place), place)
    for member, (env_step, path) in sorted(newest.items()):
        try:
            found[member] = _read_errors(path, env_step)
        except (OSError, ValueError) as error:
            on_bad(f"{path}: no open-loop errors ({error})")
    return found


def _read_errors(path: Path, env_step: int) -> OpenLoopErrors:
    """Read what `write_errors` wrote; ValueError if a file has something else."""
    content = parse_json(path.read_bytes())
    if not isinstance(content, dict):
        raise ValueError("not a JSON object")
    context, error = (content.get(name) for name in ("context", "error"))
    if type(context) is not int or context < 0 or not isinstance(error, dict):
        raise ValueError("context must be a number of steps, and error an object")
    for name, values in error.items():
        if not isinstance(values, list) or not all(x is None or is_number(x) for x in values):
            raise ValueError(f"error of {name!r} must be a list of numbers and nulls")
    return OpenLoopErrors(env_step, context, error)


def open_loop_gif(
    truth: np.ndarray,
    prediction: np.ndarray,
    path: str | Path,
    *,
    context: int,
    imagined: np.ndarray | None = None,
    is_first: np.ndarray | None = None,
    scale: int = 2,
) -> None:
    """Write a looping GIF with rows for the truth, the prediction, the error and the policy.

    The error is (prediction - truth + 1) / 2: grey where they agree. Predictions are framed in blue
    during the context, where the model sees the images, and afterwards in orange, or in green where
    they follow the policy's own actions. A new episode is framed in purple: the truth where it
    begins, and what is predicted of it, which the model cannot know, until the end.

    Args:
        truth: [N, T, H, W, C], N examples side by side; uint8, or float in [0, 1]. Of images whose
            C is neither 1 nor 3, some channels are shown, see `_colours`.
        prediction: of the same shape; uint8 or float. Floats are clipped to [0, 1], and non-finite
            ones are black.
        path: the GIF, replaced atomically.
        context: the number of initial frames, 0..T, that are reconstructions.
        imagined: predictions with other actions, of the same shape; None leaves out their row.
        is_first: [N, T] bool, where a new episode begins; the first frames do not count.
        scale: each pixel becomes scale x scale pixels.

    Raises:
        ValueError: an argument has another shape, type or range.
    """
    predicted = {"prediction": prediction}
    if imagined is not None:
        predicted["imagined"] = imagined
    for name, images in predicted.items():
        if np.shape(images) != np.shape(truth):
            raise ValueError(f"{name} has shape {np.shape(images)}, truth has {np.shape(truth)}")
    _check_images("truth", truth, "NTHWC")
    number, length = truth.shape[:2]
    is_first = np.zeros((number, length), bool) if is_first is None else is_first
    if not 0 <= context <= length:
        raise ValueError(f"context must be in 0..{length}, the length of truth, got {context}")
    if scale < 1 or scale != int(scale):
        raise ValueError(f"scale must be a whole number of at least 1, got {scale}")
    truth = _unit("truth", truth)
    # Tolerates the rounding of a shift to [-0.5, 0.5] and back; negated so that NaN fails too.
    if not (truth.min() >= -1e-3 and truth.max() <= 1 + 1e-3):
        raise ValueError(f"truth must be in [0, 1], got [{truth.min():g}, {truth.max():g}]")
    truth = _colours(truth)
    prediction, *others = (
        _colours(np.clip(np.nan_to_num(_unit(name, images), posinf=0, neginf=0), 0, 1))
        for name, images in predicted.items()
    )
    rows = np.stack([truth, prediction, (prediction - truth + 1) / 2, *others])
    rows = np.round(255 * rows).astype(np.uint8).repeat(int(scale), 3).repeat(int(scale), 4)
    captions = [
        f"context {t + 1}/{context}" if t < context else f"open loop +{t + 1 - context}"
        for t in range(length)
    ]
    colours = _frame_colours(len(rows), is_first, context)
    _save(_label(_grids(rows, colours), captions, len(rows)), path, OPEN_LOOP_MS)


def episode_gif(frames: np.ndarray, path: str | Path) -> None:
    """Write the frames of an episode, uint8 [T, H, W, C] with any C, as a looping GIF."""
    from PIL import Image

    _check_images("frames", frames, "THWC")
    if frames.dtype != np.uint8:
        raise ValueError(f"frames must be uint8, not {frames.dtype}")
    frames = _colours(frames)
    frames = np.ascontiguousarray(np.broadcast_to(frames, (*frames.shape[:-1], 3)))
    _save([Image.fromarray(frame) for frame in frames], path, EPISODE_MS)


def _check_images(name: str, images: np.ndarray, axes: str) -> None:
    shape = np.shape(images)
    if len(shape) != len(axes) or 0 in shape:
        raise ValueError(f"{name} must be [{', '.join(axes)}], none empty; got {shape}")


def _colours(images: np.ndarray) -> np.ndarray:
    """Return [..., C] as [..., 1] or [..., 3].

    Of 4 channels the last is taken for transparency and left out; of a stack of RGB images the last
    image is shown, of any other number of channels the last.
    """
    channels = images.shape[-1]
    if channels == 4:
        return images[..., :3]
    return images[..., -3:] if channels % 3 == 0 else images[..., -1:]


def _unit(name: str, images: np.ndarray) -> np.ndarray:
    """Return uint8 or float images as float32; 255 becomes 1."""
    if images.dtype == np.uint8:
        return images.astype(np.float32) / 255
    if not np.issubdtype(images.dtype, np.floating):
        raise ValueError(f"{name} must be uint8 or float, not {images.dtype}")
    return images.astype(np.float32)


def _frame_colours(count: int, is_first: np.ndarray, context: int) -> np.ndarray:
    """Return the colours of the frames of cells, uint8 [T, count, N, 3]."""
    begins = is_first.T.copy()  # [T, N]
    begins[0] = False
    colours = np.full((len(begins), count, begins.shape[1], 3), BACKGROUND, np.uint8)
    colours[:, 1], colours[:, 3:] = OPEN_LOOP, IMAGINED
    colours[:context, 1] = colours[:context, 3:] = CONTEXT
    colours[:, 0][begins] = INTERRUPTED
    begins[:context] = False
    colours[:, 1][np.cumsum(begins, 0) > 0] = INTERRUPTED
    return colours


def _grids(rows: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Return T pictures uint8 [T, height, width, 3] of rows [R, N, T, H, W, C] in framed cells.

    Args:
        colours: of the frames, [T, R, N, 3].
    """
    count, number, length, height, width, _ = rows.shape
    height, width = height + 2 * BORDER + GAP, width + 2 * BORDER + GAP
    cells = np.full((length, count, height, number, width, 3), BACKGROUND, np.uint8)
    framed = cells[:, :, :-GAP, :, :-GAP]
    framed[:] = colours[:, :, None, :, None]
    framed[:, :, BORDER:-BORDER, :, BORDER:-BORDER] = rows.transpose(2, 0, 3, 1, 4, 5)
    return cells.reshape(length, count * height, number * width, 3)


def _label(grids: np.ndarray, captions: Iterable[str], rows: int) -> "list[Image]":
    """Return pictures of grids with their captions above and the names of the rows on the left.

    Both are omitted where the cells are too small for them.
    """
    from PIL import Image, ImageDraw, ImageFont

    height, width = grids.shape[1] // rows, grids.shape[2]
    fits = height >= 48 and width >= 110
    margin = MARGIN if fits else GAP
    blank = Image.new("RGB", (width + margin, grids.shape[1] + margin), BACKGROUND)
    font = ImageFont.load_default(size=11)
    for row, name in enumerate(LABELS[:rows] if fits else ()):
        text = Image.new("RGB", (height - GAP, MARGIN), BACKGROUND)
        center = (text.width / 2, MARGIN / 2)
        ImageDraw.Draw(text).text(center, name, fill=TEXT, font=font, anchor="mm")
        blank.paste(text.rotate(90, expand=True), (0, margin + row * height))
    pictures = []
    for grid, caption in zip(grids, captions, strict=True):
        picture = blank.copy()
        picture.paste(Image.fromarray(grid), (margin, margin))
        if fits:
            place = (margin, MARGIN / 2)
            ImageDraw.Draw(picture).text(place, caption, fill=TEXT, font=font, anchor="lm")
        pictures.append(picture)
    return pictures


def _save(frames: "Sequence[Image]", path: str | Path, duration: int) -> None:
    """Write a GIF of `duration` ms per frame. Equal neighbours become one longer frame."""
    options = {"save_all": True, "append_images": frames[1:], "duration": duration, "loop": 0}
    with replacing(path) as temporary:
        frames[0].save(temporary, format="GIF", **options)
