"""Curves and GIFs, read back from their files."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageSequence

from dreamer_jax.files import replacing
from dreamer_jax.metrics import PLOTTED
from dreamer_jax.report import curves, video
from dreamer_jax.report.curves import draw_curves, mean_line
from dreamer_jax.report.video import (
    episode_gif,
    newest_errors,
    open_loop_gif,
    open_loop_path,
    open_loop_videos,
    write_errors,
)


def metric_rows(members, steps=6, **scalars):
    return [
        dict(member=m, seed=100 + m, env_step=10 * t, frame=40 * t, update=t)
        | dict(train_return=float(t + m))
        | scalars
        for t in range(steps)
        for m in range(members)
    ]


@pytest.fixture
def figures(monkeypatch):
    """The figures that are drawn, to look into."""
    drawn, make = [], curves.panel_figure
    monkeypatch.setattr(curves, "panel_figure", lambda *a: drawn.append(make(*a)) or drawn[-1])
    return drawn


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


def legend_texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_one_line_per_member_and_their_mean(tmp_path, figures):
    draw_curves(metric_rows(3), tmp_path / "curves.png")
    (figure,) = figures
    assert titles(figure) == ["train_return"]
    (thin,) = figure.axes[0].collections
    assert len(np.unique(thin.get_colors(), axis=0)) == 3
    *markers, bold = figure.axes[0].get_lines()
    for m, (points, marks) in enumerate(zip(thin.get_segments(), markers, strict=True)):
        np.testing.assert_array_equal(points[:, 0], 40 * np.arange(6))
        np.testing.assert_array_equal(points[:, 1], np.arange(6) + m)
        np.testing.assert_array_equal(marks.get_xydata(), points)  # they are few
        assert marks.get_linestyle() == "None"
    np.testing.assert_allclose(bold.get_ydata(), np.arange(6) + 1)
    assert bold.get_linewidth() > 2 * thin.get_linewidth()[0]
    assert legend_texts(figure) == ["seed 100", "seed 101", "seed 102", "mean"]
    assert figure.axes[0].get_xlabel() == "frames"


def test_one_member_has_no_mean(tmp_path, figures):
    draw_curves(metric_rows(1, steps=curves.SPARSE), tmp_path / "curves.png")
    assert not figures[0].axes[0].get_lines()  # nor markers, as there are many points
    assert len(figures[0].axes[0].collections) == 1
    assert legend_texts(figures[0]) == ["seed 100"]


def test_panels_are_those_that_have_data_in_reading_order(tmp_path, figures):
    rows = metric_rows(2, critic=1.0, image_loss=2.0, kl=None, eval_return=3, note="x", other=1.0)
    draw_curves(rows, tmp_path / "curves.png")
    assert titles(figures[0]) == ["train_return", "eval_return", "image_loss", "critic"]


def test_a_metric_is_drawn_once_it_is_registered(tmp_path, figures, monkeypatch):
    monkeypatch.setitem(PLOTTED, "other", "nats")
    draw_curves(metric_rows(1, other=1.0), tmp_path / "curves.png")
    assert titles(figures[0]) == ["train_return", "other"]
    assert figures[0].axes[1].get_ylabel() == "nats"


def test_given_keys_are_all_drawn(tmp_path, figures):
    draw_curves(metric_rows(2, other=1.0), tmp_path / "curves.png", keys=["other", "kl"])
    assert titles(figures[0]) == ["other", "kl"]
    assert [text.get_text() for text in figures[0].axes[1].texts] == ["no data yet"]


def test_missing_and_non_finite_values_are_left_out(tmp_path, figures):
    rows = metric_rows(1)
    rows[1]["train_return"] = None
    rows[2]["train_return"] = float("nan")
    del rows[4]["train_return"]
    draw_curves(rows, tmp_path / "curves.png")
    (line,) = figures[0].axes[0].get_lines()
    np.testing.assert_array_equal(line.get_xdata(), [0, 120, 200])
    np.testing.assert_array_equal(line.get_ydata(), [0, 3, 5])


def test_mean_line_by_hand():
    first = (np.array([0.0, 2.0, 4.0]), np.array([0.0, 20.0, 0.0]))
    second = (np.array([1.0, 3.0, 9.0]), np.array([5.0, 15.0, 99.0]))
    # At 1, 2, 3, 4 the first is 10, 20, 10, 0 and the second 5, 10, 15, 15 + 84 / 6 = 29.
    xs, ys = mean_line([first, second])
    np.testing.assert_array_equal(xs, [1, 2, 3, 4])
    np.testing.assert_allclose(ys, [7.5, 15, 12.5, 14.5])
    apart = (np.array([5.0]), np.array([1.0]))
    assert mean_line([first, apart]) is None


def test_many_members_get_a_short_legend_and_one_colour_each(tmp_path, figures):
    draw_curves(metric_rows(20, steps=2), tmp_path / "curves.png")
    wanted = [f"seed {seed}" for seed in (100, 101, 102, 117, 118, 119)]
    assert legend_texts(figures[0]) == [*wanted[:3], "...", *wanted[3:], "mean"]
    assert len({line.get_color() for line in figures[0].axes[0].get_lines()}) == 21


def test_members_of_one_seed_are_told_apart(tmp_path, figures):
    rows = [row | dict(seed=7) for row in metric_rows(2)]
    draw_curves(rows, tmp_path / "curves.png")
    assert legend_texts(figures[0]) == ["seed 7 (member 0)", "seed 7 (member 1)", "mean"]


def test_settings_of_a_grid_have_a_colour_and_a_mean_each(tmp_path, figures):
    """Members 0 and 1 have one setting, 2 and 3 the other; their returns are t + member."""
    rows = [
        row | {"seed": row["member"] % 2, "hyper/kl_scale": (0.1, 0.3)[row["member"] // 2]}
        for row in metric_rows(4)
    ]
    draw_curves(rows, tmp_path / "curves.png")
    lines = figures[0].axes[0].get_lines()
    assert legend_texts(figures[0]) == ["kl_scale 0.1", "kl_scale 0.3"]
    first, second = curves.FEW_COLOURS[:2]
    assert [line.get_color() for line in lines] == [first, first, second, second, first, second]
    for line, offset in zip(lines[4:], (0.5, 2.5), strict=True):
        np.testing.assert_allclose(line.get_ydata(), np.arange(6) + offset)


@pytest.mark.parametrize("rows", [[], metric_rows(1, steps=2, train_return=None)])
def test_no_data_yet(tmp_path, figures, rows):
    draw_curves(rows, tmp_path / "curves.png", title="run of $5 and $6")
    assert "no data yet" in [text.get_text() for text in figures[0].texts]
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG" and np.asarray(picture.convert("L")).min() < 128


def test_curves_leave_pyplot_alone(tmp_path):
    code = (
        "import sys; from dreamer_jax.report.curves import draw_curves;"
        "assert 'matplotlib' not in sys.modules;"
        f"draw_curves([], {str(tmp_path / 'curves.png')!r});"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_failed_replacement_leaves_the_old_file_alone(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def read_gif(path):
    """Frames [T, H, W, 3] as int, ms of each, and the header."""
    with Image.open(path) as gif:
        frames = [np.array(frame.convert("RGB"), int) for frame in ImageSequence.Iterator(gif)]
        gif.seek(0)
        return np.stack(frames), gif.info


def videos(number=2, length=5, size=(6, 8), channels=3):
    """Frames that all differ: brightness rises with time."""
    ramp = np.linspace(0.2, 0.8, length, dtype=np.float32)[None, :, None, None, None]
    truth = np.broadcast_to(ramp, (number, length, *size, channels)).copy()
    return truth, truth - 0.2


def cell(frames, row, column, size, scale):
    """The pixels of one example in one row of an unlabelled picture, by the layout's numbers."""
    height, width = size[0] * scale, size[1] * scale
    top = video.GAP + row * (height + 2 * video.BORDER + video.GAP) + video.BORDER
    left = video.GAP + column * (width + 2 * video.BORDER + video.GAP) + video.BORDER
    return frames[:, top : top + height, left : left + width], (top - 1, left - 1)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_open_loop_rows_are_truth_prediction_and_error(tmp_path, channels, as_bytes):
    truth, prediction = videos(channels=channels)
    if as_bytes:
        truth, prediction = ((255 * x).round().astype(np.uint8) for x in (truth, prediction))
    path = tmp_path / "open_loop.gif"
    open_loop_gif(truth, prediction, path, context=2, scale=3)
    frames, info = read_gif(path)
    assert len(frames) == 5 and info["loop"] == 0 and info["duration"] == 120
    rising = 255 * np.linspace(0.2, 0.8, 5)
    for column in range(2):
        for row, wanted in enumerate([rising, rising - 51, np.full(5, 255 * 0.4)]):
            pixels, _ = cell(frames, row, column, (6, 8), 3)
            np.testing.assert_allclose(
                pixels, np.broadcast_to(wanted[:, None, None, None], pixels.shape), atol=3
            )


def test_frame_of_the_predicted_row_tells_context_from_open_loop(tmp_path):
    path = tmp_path / "open_loop.gif"
    open_loop_gif(*videos(), path, context=2, scale=2)
    frames, _ = read_gif(path)
    for row in range(3):
        for column in range(2):
            _, (y, x) = cell(frames, row, column, (6, 8), 2)
            wanted = [video.CONTEXT] * 2 + [video.OPEN_LOOP] * 3
            if row != 1:
                wanted = [video.BACKGROUND] * 5
            np.testing.assert_allclose(frames[:, y, x], wanted, atol=8)


def test_a_fourth_row_shows_what_the_policy_imagines(tmp_path):
    truth, prediction = videos()
    path = tmp_path / "open_loop.gif"
    open_loop_gif(truth, prediction, path, context=2, scale=3, imagined=truth / 2)
    frames, _ = read_gif(path)
    assert frames.shape[1] == video.GAP + 4 * (3 * 6 + 2 * video.BORDER + video.GAP)
    pixels, (y, x) = cell(frames, 3, 1, (6, 8), 3)
    rising = 255 * np.linspace(0.1, 0.4, 5)
    np.testing.assert_allclose(
        pixels, np.broadcast_to(rising[:, None, None, None], pixels.shape), atol=3
    )
    wanted = [video.CONTEXT] * 2 + [video.IMAGINED] * 3
    np.testing.assert_allclose(frames[:, y, x], wanted, atol=8)


def test_a_new_episode_is_marked(tmp_path):
    """In the truth where it begins, and in the prediction from there, unless in the context."""
    is_first = np.array([[True, True, False, False, False], [False, False, False, True, False]])
    path = tmp_path / "open_loop.gif"
    truth, prediction = videos()
    open_loop_gif(truth, prediction, path, context=2, scale=2, is_first=is_first, imagined=truth)
    frames, _ = read_gif(path)
    none, blue, orange, purple, green = (
        video.BACKGROUND,
        video.CONTEXT,
        video.OPEN_LOOP,
        video.INTERRUPTED,
        video.IMAGINED,
    )
    expected = {
        (0, 0): [none, purple, none, none, none],
        (0, 1): [none, none, none, purple, none],
        (1, 0): [blue, blue, orange, orange, orange],
        (1, 1): [blue, blue, orange, purple, purple],
        (2, 1): [none] * 5,
        (3, 1): [blue, blue, green, green, green],
    }
    for (row, column), wanted in expected.items():
        _, (y, x) = cell(frames, row, column, (6, 8), 2)
        np.testing.assert_allclose(frames[:, y, x], wanted, atol=8, err_msg=f"{row}, {column}")


@pytest.mark.parametrize("context", [0, 5])
def test_context_may_be_nothing_or_everything(tmp_path, context):
    open_loop_gif(*videos(), tmp_path / "open_loop.gif", context=context)
    frames, _ = read_gif(tmp_path / "open_loop.gif")
    _, (y, x) = cell(frames, 1, 0, (6, 8), 2)
    wanted = video.CONTEXT if context else video.OPEN_LOOP
    np.testing.assert_allclose(frames[:, y, x], np.broadcast_to(wanted, (5, 3)), atol=8)


def test_large_cells_get_labels(tmp_path):
    truth, prediction = videos(size=(32, 32))
    open_loop_gif(truth, prediction, tmp_path / "open_loop.gif", context=2)
    frames, _ = read_gif(tmp_path / "open_loop.gif")
    cells = 2 * (64 + 2 * video.BORDER + video.GAP)
    assert frames.shape[2] == cells + video.MARGIN
    margins = [frames[:, : video.MARGIN, video.MARGIN :], frames[:, video.MARGIN :, : video.MARGIN]]
    assert all(margin.max() > 180 for margin in margins)
    assert len({frame[: video.MARGIN].tobytes() for frame in frames}) == 5


def test_a_diverged_prediction_is_drawn(tmp_path):
    truth, prediction = videos()
    prediction[:, :, :3] = np.nan
    prediction[:, :, 3:] = 7.0
    prediction[0, 0, 0, 0] = -np.inf
    open_loop_gif(truth, prediction, tmp_path / "open_loop.gif", context=2, scale=1)
    frames, _ = read_gif(tmp_path / "open_loop.gif")
    pixels, _ = cell(frames, 1, 0, (6, 8), 1)
    assert pixels[:, :3].max() <= 3 and pixels[:, 3:].min() >= 252


@pytest.mark.parametrize(
    ("channels", "shown"),
    [(1, [0]), (2, [1]), (3, [0, 1, 2]), (4, [0, 1, 2]), (5, [4]), (9, [6, 7, 8])],
)
def test_images_of_any_number_of_channels_are_drawn(tmp_path, channels, shown):
    truth = np.broadcast_to(np.linspace(0, 1, channels), (1, 2, 6, 8, channels))
    open_loop_gif(truth, truth, tmp_path / "any.gif", context=1, scale=1)
    open_loop_gif(truth[..., shown], truth[..., shown], tmp_path / "same.gif", context=1, scale=1)
    assert (tmp_path / "any.gif").read_bytes() == (tmp_path / "same.gif").read_bytes()
    frames = np.zeros((2, 6, 8, channels), np.uint8)
    video.episode_gif(frames, tmp_path / "episode.gif")
    assert (tmp_path / "episode.gif").exists()


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(prediction=np.zeros((2, 5, 6, 7, 3))), r"shape \(2, 5, 6, 7, 3\), truth has"),
        (dict(imagined=np.zeros((2, 5, 6, 7, 3))), r"imagined has shape \(2, 5, 6, 7, 3\), truth"),
        (dict(truth=np.zeros((5, 6, 8, 3)), prediction=np.zeros((5, 6, 8, 3))), "truth must be"),
        (dict(truth=np.zeros((0, 5, 6, 8, 3)), prediction=np.zeros((0, 5, 6, 8, 3))), "none empty"),
        (dict(truth=np.zeros((2, 5, 6, 8, 3), int)), "truth must be uint8 or float, not int64"),
        (dict(prediction=np.zeros((2, 5, 6, 8, 3), bool)), "prediction must be uint8 or float"),
        (dict(truth=np.full((2, 5, 6, 8, 3), 200.0)), r"truth must be in \[0, 1\], got \[200, 200"),
        (dict(truth=np.full((2, 5, 6, 8, 3), np.nan)), r"truth must be in \[0, 1\], got \[nan"),
        (dict(context=6), r"context must be in 0\.\.5, the length of truth, got 6"),
        (dict(context=-1), r"context must be in 0\.\.5"),
        (dict(scale=0), "scale must be a whole number of at least 1, got 0"),
        (dict(scale=1.5), "scale must be a whole number"),
    ],
)
def test_bad_videos_are_refused_and_nothing_is_written(tmp_path, change, words):
    truth, prediction = videos()
    arguments = dict(truth=truth, prediction=prediction, context=2) | change
    with pytest.raises(ValueError, match=words):
        open_loop_gif(path=tmp_path / "open_loop.gif", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_open_loop_videos_are_found_by_their_names_oldest_first(tmp_path):
    assert open_loop_videos(tmp_path / "videos") == []
    written = [("camera/left_2", 90, 0), ("image", 20, 11), ("image", 1_000_000_000, 1)]
    for key, env_step, member in written:
        open_loop_path(tmp_path, key, env_step, member).write_bytes(b"GIF89a")
    for name in ("episode.gif", ".open_loop_image_000000010_member0.gif.1.tmp", "open_loop_x.gif"):
        (tmp_path / name).write_bytes(b"GIF89a")
    found = open_loop_videos(tmp_path)
    assert [(v.key, v.env_step, v.member) for v in found] == [
        ("image", 20, 11),
        ("camera_left_2", 90, 0),
        ("image", 1_000_000_000, 1),
    ]
    assert all(v.path == open_loop_path(tmp_path, v.key, v.env_step, v.member) for v in found)


def test_the_newest_errors_of_every_member_are_read(tmp_path):
    messages = []
    assert newest_errors(tmp_path / "videos", messages.append) == {}
    for env_step, member, value in ((20, 0, 1.0), (1_000_000_000, 0, np.nan), (30, 1, 2.0)):
        write_errors(tmp_path, env_step, member, {"image": np.array([0.5, value])}, context=1)
    (tmp_path / "open_loop_000000040_member2.json").write_text("[1")
    (tmp_path / "open_loop_000000040_member3.json").write_text('{"context": 1}')
    (tmp_path / "open_loop_000000040_member4.json").write_text("null")
    found = newest_errors(tmp_path, messages.append)
    assert found == {
        0: (1_000_000_000, 1, {"image": [0.5, None]}),
        1: (30, 1, {"image": [0.5, 2.0]}),
    }
    assert len(messages) == 3 and all("open_loop_000000040_member" in m for m in messages)


@pytest.mark.parametrize("channels", [1, 3])
def test_episode_gif_holds_its_frames(tmp_path, channels):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (4, 5, 6, channels)).astype(np.uint8)
    episode_gif(frames, tmp_path / "episode.gif")
    shown, info = read_gif(tmp_path / "episode.gif")
    assert info["loop"] == 0 and info["duration"] == 70
    np.testing.assert_allclose(shown, np.broadcast_to(frames, (4, 5, 6, 3)), atol=2)
    assert list(tmp_path.iterdir()) == [tmp_path / "episode.gif"]


@pytest.mark.parametrize(
    "frames, words",
    [
        (np.zeros((4, 5, 6, 3)), "frames must be uint8, not float64"),
        (np.zeros((4, 5, 6), np.uint8), r"frames must be \[T, H, W, C\].*got \(4, 5, 6\)"),
        (np.zeros((0, 5, 6, 3), np.uint8), "none empty"),
    ],
)
def test_bad_episodes_are_refused(tmp_path, frames, words):
    with pytest.raises(ValueError, match=words):
        episode_gif(frames, tmp_path / "episode.gif")
