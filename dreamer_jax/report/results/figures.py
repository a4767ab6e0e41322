"""Figures of results, each with the words that replace it for those who cannot see it."""

import io
import itertools
import math
import statistics
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dreamer_jax.files import replacing
from dreamer_jax.metrics import PLOTTED
from dreamer_jax.report.curves import (
    FEW_COLOURS,
    GRID,
    INK,
    MAX_LEGEND,
    SPARSE,
    Line,
    draw_lines,
    legend_text,
    mean_line,
    panel_figure,
    pick_colours,
    shorten,
    style_axes,
)
from dreamer_jax.report.results.runs import Member, Run, by_variant
from dreamer_jax.report.results.signs import signs_of
from dreamer_jax.report.results.tables import Grid, grids, normalized_scores, published_table
from dreamer_jax.report.scores.published import (
    SUITES,
    normalize,
    published_curve,
    published_scores,
    references,
    suite_of,
)
from dreamer_jax.report.scores.score import METRIC, Curve
from dreamer_jax.report.scores.statistics import (
    MIN_SEEDS,
    interval,
    iqm,
    mean,
    performance_profile,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PUBLISHED = "#777777"  # colour, and mark of legend entries, of what is not ours
NEAR = 0.5  # heights of our curves; published scores further off are named and not drawn
DASHES = ("--", ":", "-.", (0, (5, 1)), (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1)))
INTERVAL_POINTS = 20  # places of a curve where its interval is computed
MAX_TASKS = 60  # with curves of their own
TASK_COLUMNS = 4  # panels beside each other in the figure of all tasks
PANELS = "Diagnostics"  # the section of figures of many panels
MAX_DIAGNOSED = 6  # tasks with figures of diagnostics, each of which takes seconds to draw

DIAGNOSTICS = (
    "train_return", "model_loss", "skipped_updates",
    "model_grad_norm", "actor_grad_norm", "critic_grad_norm",
    "image_loss", "open_loop_error", "kl",
    "latent_kl_max", "latent_kl_mean", "collapsed_latents",
    "prior_entropy", "posterior_entropy", "actor_entropy",
    "reward_loss", "reward_nonzero", "reward_slope",
    "reward_error", "eval_reward_error", "imagined_reward",
    "discount_loss", "discount_at_end",
    "critic", "critic_target", "critic_bias",
)  # fmt: skip
UNITS = {  # of those without a panel in curves.png
    "latent_kl_max": "nats",
    "latent_kl_mean": "nats",
    "collapsed_latents": "share of variables",
    "reward_nonzero": "share of steps",
    "open_loop_error": "mean squared error",
    "reward_error": "mean squared error",
    "eval_reward_error": "mean squared error",
}
EXTREME = 50  # times the median size of a panel's values, beyond which it is symlog

Smoothing = tuple[int, int]  # bins over the x range, points of the running mean; 0 for none


class Picture(NamedTuple):
    """A figure as a PNG."""

    name: str  # of its file, without the ending
    title: str
    text: str  # what it shows, in words
    png: bytes
    section: str = "Figures"  # of the page

    def save(self, folder: Path) -> Path:
        """Write the PNG into a folder, replaced atomically."""
        path = folder / f"{self.name}.png"
        with replacing(path) as temporary:
            temporary.write_bytes(self.png)
        return path


def all_pictures(runs: Sequence[Run]) -> list[Picture]:
    """Return the figures that these runs have data for, in reading order."""
    tasks = by_variant(runs)
    drawn = [task for task, variants in tasks.items() if _has(variants, METRIC)][:MAX_TASKS]
    pictures = [learning_curves(task, tasks[task]) for task in drawn]
    pictures.append(curves_of_tasks({task: tasks[task] for task in drawn}))
    for suite in SUITES:
        pictures += [aggregate_curves(runs, suite), profiles(runs, suite)]
        pictures += [differences(runs, suite)]
    pictures += [heatmap(grid) for grid in grids(runs)[:MAX_TASKS]]
    failing = {m.task for run in runs for m in run.members if signs_of(m)}
    diagnosed = sorted(tasks, key=lambda task: task not in failing)[:MAX_DIAGNOSED]
    for task in diagnosed:
        pictures += [diagnostics(task, tasks[task]), horizon_errors(task, tasks[task])]
    return [picture for picture in pictures if picture is not None]


def learning_curves(
    task: str,
    variants: Mapping[str, Sequence[Member]],
    key: str = METRIC,
    x: str = "frame",
    smoothing: Smoothing = (0, 0),
) -> Picture:
    """Draw every member of a task, the means of variants, and what has been published.

    Args:
        task: its name.
        variants: members by variant, with curves of `key` against `x`.
        key: the metric.
        x: the key of the x axis; published figures are drawn against frames alone.
        smoothing: stated on the figure.
    """
    lines = {
        label: [_smooth(m.curves[key], *smoothing) for m in members if m.curves.get(key)]
        for label, members in variants.items()
    }
    lines = {label: group for label, group in lines.items() if group}
    right = max([1.0, *(xs[-1] for group in lines.values() for xs, _ in group)])
    figure, axes = _new_figure()
    words = ", ".join(_smoothing_words(*smoothing))
    style_axes(axes, task, {"frame": "frames"}.get(x, x), f"{key} {PLOTTED.get(key, '')}".strip())
    if words:
        axes.set_title(words, fontsize=9, loc="right", color=INK)
    colours = pick_colours(list(lines))
    for label, group in lines.items():
        _draw_group(axes, label, group, colours[label])
    if key == METRIC and x == "frame":
        _draw_published(axes, task, right)
    axes.set_xlim(0, 1.02 * right)
    _legend(axes)
    said = [f"{label}: {_describe(group)}" for label, group in lines.items()]
    text = f"{key} of {task} against {x}, a line per seed. " + "; ".join(said) + f". {words}"
    return _picture(figure, f"{_file(task)}_{_file(key)}", f"{task}: {key}", text)


def curves_of_tasks(tasks: Mapping[str, Mapping[str, Sequence[Member]]]) -> Picture | None:
    """Draw the returns of all tasks beside each other, if there are several.

    Args:
        tasks: members by task and variant, with returns for every task.
    """
    from matplotlib.figure import Figure

    if len(tasks) < 2:
        return None
    columns = min(len(tasks), TASK_COLUMNS)
    rows = -(-len(tasks) // columns)
    size = (2.6 * columns, 2.3 * rows + 0.3)
    figure = Figure(size, dpi=110, layout="constrained", facecolor="white")
    colours = pick_colours(list(dict.fromkeys(label for task in tasks.values() for label in task)))
    said = []
    for index, (task, variants) in enumerate(tasks.items()):
        axes = figure.add_subplot(rows, columns, index + 1)
        x_label = "frames" if index + columns >= len(tasks) else ""
        style_axes(axes, task.replace(":", "\n"), x_label, "")
        for label, members in variants.items():
            lines = [_lines(m.returns) for m in members if m.returns]
            if lines:
                _draw_group(axes, label, lines, colours[label])
                said.append(f"{task}, {label}: {_describe(lines)}")
        right = axes.dataLim.xmax
        low, high = axes.get_ylim()
        published = _draw_published_curve(axes, task, right)
        axes.set_ylim(min([low, *published]), max([high, *published]))
        axes.set_xlim(0, 1.02 * right)
    _legend(*figure.axes)
    text = f"{METRIC} against frames, a panel per task and a line per seed. {'; '.join(said)}."
    return _picture(figure, "tasks", "All tasks", text)


def aggregate_curves(runs: Sequence[Run], suite: str) -> Picture | None:
    """Draw the IQM of normalised scores over the tasks of a suite, if there are several."""
    curves: dict[str, dict[str, list[Line]]] = {}
    for task, variants in by_variant(runs).items():
        for label, members in variants.items() if suite_of(task) == suite else ():
            lines = [_lines(m.returns) for m in members if m.returns]
            if lines and references(task):
                scale = [(xs, np.array([normalize(task, y) for y in ys])) for xs, ys in lines]
                curves.setdefault(label, {})[task] = scale
    curves = {label: tasks for label, tasks in curves.items() if len(tasks) > 1}
    if not curves:
        return None
    figure, axes = _new_figure()
    style_axes(axes, f"{SUITES[suite].title}: IQM over tasks", "frames", SUITES[suite].unit)
    said = []
    for label, colour in pick_colours(list(curves)).items():
        tasks = curves[label]
        lines = [line for group in tasks.values() for line in group]
        grid = mean_line(lines)
        if grid is None:
            continue
        xs = grid[0]
        samples = [np.array([np.interp(xs, *line) for line in group]).T for group in tasks.values()]
        fewest = min(map(len, tasks.values()))
        name = f"{label}: {len(tasks)} tasks, at least {fewest} seeds, to the end of the shortest"
        marker = {"marker": "o", "markersize": 3} if len(xs) < SPARSE else {}
        axes.plot(xs, iqm(*samples), color=colour, linewidth=2.2, label=name, **marker)
        if fewest >= MIN_SEEDS:
            _band(axes, xs, samples, iqm, colour)
        said.append(f"{name}, finally {float(iqm(*(s[-1] for s in samples))):.3g}")
    if not said:  # some runs begin where others have ended
        return None
    axes.set_xlim(left=0)
    _legend(axes)
    text = (
        f"Interquartile mean of {SUITES[suite].unit} over tasks against frames, as far as the "
        "shortest run. "
    )
    return _picture(
        figure, f"{suite}_aggregate", f"{SUITES[suite].title}: over tasks", text + "; ".join(said)
    )


def profiles(runs: Sequence[Run], suite: str) -> Picture | None:
    """Draw performance profiles of a suite, if it has several tasks."""
    scores = normalized_scores(runs, suite)
    scores = {label: tasks for label, tasks in scores.items() if len(tasks) > 1}
    if not scores:
        return None
    values = [x for tasks in scores.values() for group in tasks.values() for x in group]
    thresholds = np.linspace(min(0.0, *values), max(1.0, *values), 200)
    figure, axes = _new_figure()
    title = f"{SUITES[suite].title}: performance profile"
    style_axes(axes, title, SUITES[suite].unit, "share of runs above")
    for label, colour in pick_colours(list(scores)).items():
        fewest = min(map(len, scores[label].values()))
        name = f"{label}: {len(scores[label])} tasks, at least {fewest} seeds"
        axes.plot(
            thresholds, performance_profile(scores[label], thresholds), color=colour, label=name
        )
    axes.set_ylim(-0.02, 1.02)
    _score_axis(axes)
    _legend(axes)
    text = f"The share of runs above each {SUITES[suite].unit}, averaged over tasks."
    return _picture(figure, f"{suite}_profile", title, text)


def differences(runs: Sequence[Run], suite: str) -> Picture | None:
    """Draw how far each task is above or below the first published method, normalised."""
    from matplotlib.ticker import ScalarFormatter

    rows = [row for row in published_table(runs).rows if suite_of(row["task"]) == suite]
    bars = []
    for row in rows:
        method, score = next(iter(published_scores(row["task"]).items()))
        known = references(row["task"])
        name = row["task"].partition(":")[2] + (f", {row['variant']}" if _many(rows) else "")
        bars.append(((row["score"] - score) / (known.gamer - known.random), name, row["n"], method))
    if not bars:
        return None
    bars.sort(key=lambda bar: bar[0])
    figure, axes = _new_figure(height=1.2 + 0.28 * len(bars))
    title = f"{SUITES[suite].title}: our score minus {bars[0][3]}, final"
    style_axes(axes, title.replace(": ", ":\n"), f"difference of the {SUITES[suite].unit}", "")
    above, below = FEW_COLOURS[0], FEW_COLOURS[1]
    colours = [above if value >= 0 else below for value, *_ in bars]
    axes.barh(range(len(bars)), [bar[0] for bar in bars], color=colours)
    names = [legend_text(f"{name} (n = {n})") for _, name, n, _ in bars]
    figure.set_figwidth(4.5 + 0.06 * max(map(len, names)))  # names are as long as variants are
    axes.set_yticks(range(len(bars)), names, fontsize=8)
    axes.axvline(0, color=INK, linewidth=0.8)
    if max(abs(bar[0]) for bar in bars) > 3:  # a few games are far from all others
        axes.set_xscale("symlog", linthresh=1)
        axes.xaxis.set_major_formatter(ScalarFormatter())
    else:
        _score_axis(axes)
    text = "; ".join(f"{name}: {value:+.3g}" for value, name, *_ in reversed(bars))
    return _picture(figure, f"{suite}_difference", title, f"{title}. {text}")


def heatmap(grid: Grid) -> Picture:
    """Draw the mean and the worst score over the values of hyperparameters."""
    from matplotlib.figure import Figure

    width, height = max(3.0, 0.7 * len(grid.xs) + 1.6), max(1.7, 0.45 * len(grid.ys) + 1.2)
    figure = Figure((2 * width, height), dpi=110, layout="constrained", facecolor="white")
    values = [statistics.fmean(scores) for scores in grid.cells.values()]
    values += [min(scores) for scores in grid.cells.values()]
    low, high = min(values), max(values)
    for index, (name, fn) in enumerate({"mean": statistics.fmean, "worst seed": min}.items()):
        axes = figure.add_subplot(1, 2, index + 1)
        shown = np.array([[_cell(grid, y, x, fn) for x in grid.xs] for y in grid.ys], float)
        axes.imshow(shown, cmap="viridis", vmin=low, vmax=high, aspect="auto")
        for (row, column), value in np.ndenumerate(shown):
            if math.isfinite(value):
                count = len(grid.cells[grid.ys[row], grid.xs[column]])
                dark = value < (low + high) / 2 or low == high
                style = {"color": "white" if dark else "black", "fontsize": 8}
                axes.text(
                    column, row, f"{value:.3g}\nn = {count}", ha="center", va="center", **style
                )
        title = shorten(f"{grid.task}: {name}")
        axes.set_title(title, fontsize=10, loc="left", color=INK, parse_math=False)
        axes.set_xticks(range(len(grid.xs)), [f"{x:g}" for x in grid.xs], fontsize=8)
        axes.set_xlabel(grid.x, fontsize=9, parse_math=False)
        axes.set_yticks(
            range(len(grid.ys)), [f"{y:g}" if grid.y else "" for y in grid.ys], fontsize=8
        )
        axes.set_ylabel(grid.y or "", fontsize=9, parse_math=False)
    said = [
        f"{grid.x} {x:g}{f', {grid.y} {y:g}' if grid.y else ''}: mean {statistics.fmean(s):.3g}, "
        f"worst {min(s):.3g}, {len(s)} seeds"
        for (y, x), s in sorted(grid.cells.items(), key=lambda item: (item[0][0] or 0, item[0][1]))
    ]
    name = "_".join(map(_file, (grid.task, grid.x, grid.y or ""))).rstrip("_")
    title = f"{grid.task}: {grid.x}" + (f" and {grid.y}" if grid.y else "")
    return _picture(figure, name, title, "Scores by hyperparameter. " + "; ".join(said))


def diagnostics(task: str, variants: Mapping[str, Sequence[Member]]) -> Picture | None:
    """Draw the metrics that tell why a run fails; docs/diagnosing.md says which means what."""
    members = dict(enumerate(m for group in variants.values() for m in group))
    panels = {
        key: {i: _lines(m.curves[key]) for i, m in members.items() if m.curves.get(key)}
        for key in DIAGNOSTICS
    }
    panels = {key: lines for key, lines in panels.items() if lines}
    if not panels:
        return None
    seeds = {i: m.seed for i, m in members.items()}
    labels = {i: m.label for i, m in members.items()}
    said = [
        f"{key}: last values from {min(last):.3g} to {max(last):.3g}"
        for key, lines in panels.items()
        if (last := [ys[-1] for _, ys in lines.values()])
    ]
    title = f"{task}: diagnostics"
    text = f"Metrics of {task} against frames, a line per member. {'; '.join(said)}."
    figure = panel_figure(panels, seeds, labels, title, PLOTTED | UNITS)
    for axes, lines in zip(figure.axes, panels.values(), strict=True):
        _tame(axes, np.concatenate([ys for _, ys in lines.values()]))
    return _picture(figure, f"{_file(task)}_diagnostics", title, text)._replace(section=PANELS)


def horizon_errors(task: str, variants: Mapping[str, Sequence[Member]]) -> Picture | None:
    """Draw open-loop errors against the horizon, a panel per entry and a line per member."""
    groups = {label: [m.errors for m in group if m.errors] for label, group in variants.items()}
    names = dict.fromkeys(
        name
        for group in groups.values()
        for errors in group
        for name, values in errors.error.items()
        if any(value is not None for value in values)
    )
    if not names:
        return None
    figure, axes = _new_figure()
    axes.remove()
    figure.set_figwidth(max(6.0, 4.0 * len(names)))
    said, colours = [], pick_colours([label for label, group in groups.items() if group])
    for index, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), index + 1)
        style_axes(axes, f"{task}: {name}", "steps after the context", "mean squared error")
        for label, colour in colours.items():
            for errors in groups[label]:
                ys = np.array(errors.error.get(name, []), float)
                xs = np.arange(len(ys)) + 1 - errors.context
                axes.plot(xs, ys, color=colour, marker="o", markersize=3, linewidth=1.2)
                last = ys[np.isfinite(ys)][-1:]
                said += [f"{name}, {label}: finally {y:.3g}" for y in last]
        left, right = axes.dataLim.intervalx
        axes.axvspan(left - 0.5, 0.5, color=GRID, alpha=0.4, linewidth=0)
        axes.set_xlim(left - 0.5, right + 0.5)
        _tame(axes, np.concatenate([line.get_ydata() for line in axes.lines]))
        if axes.get_yscale() == "linear":
            axes.set_ylim(bottom=0)
    for label, colour in colours.items():
        count = len(groups[label])
        name = f"{label}, {count} seed{'s' * (count > 1)}"
        figure.axes[0].plot([], [], color=colour, label=name)
    _legend(figure.axes[0])
    title = f"{task}: open-loop error"
    text = (
        f"Mean squared error of {task} against the steps that the model predicts alone, a line per "
        f"member, of its newest video. {'; '.join(said)}."
    )
    return _picture(figure, f"{_file(task)}_horizon", title, text)._replace(section=PANELS)


def _tame(axes: "Axes", values: np.ndarray) -> None:
    """Scale the y axis logarithmically if a few of its values would hide all others."""
    from matplotlib.ticker import SymmetricalLogLocator

    values = values[np.isfinite(values)]
    sizes = np.abs(values[values != 0])
    if not sizes.size or sizes.max() <= EXTREME * np.median(sizes):
        return
    if values.min() > 0:
        axes.set_yscale("log")
    else:
        axes.set_yscale("symlog", linthresh=float(np.median(sizes)))
        axes.yaxis.set_major_locator(SymmetricalLogLocator(axes.yaxis.get_transform(), [1.0]))


def _cell(grid: Grid, y: float | None, x: float, fn) -> float:
    return fn(grid.cells[y, x]) if (y, x) in grid.cells else math.nan


def _has(variants: Mapping[str, Sequence[Member]], key: str) -> bool:
    return any(m.curves.get(key) for members in variants.values() for m in members)


def _many(rows: Sequence[Mapping]) -> bool:
    return len({row["variant"] for row in rows}) > 1


def _draw_group(axes: "Axes", label: str, lines: Sequence[Line], colour) -> None:
    """Draw the members of a variant, their mean, and its interval if they are enough."""
    many = len(lines) > MAX_LEGEND
    draw_lines(axes, lines, [colour] * len(lines), linewidth=0.9, alpha=0.3 if many else 0.6)
    middle = mean_line(lines) if len(lines) > 1 else None
    count = f"{len(lines)} seed{'s' * (len(lines) > 1)}"
    name = f"{label}, {count}" if middle is None else f"{label}, mean of {count}"
    xs, ys = ([], []) if middle is None else middle
    marker = {"marker": "o", "markersize": 4} if len(xs) == 1 else {}
    axes.plot(xs, ys, color=colour, linewidth=2.2, label=name, **marker)
    if middle is not None and len(lines) >= MIN_SEEDS:
        _band(axes, xs, [np.array([np.interp(xs, *line) for line in lines]).T], mean, colour)


def _band(axes: "Axes", xs: np.ndarray, samples: Sequence[np.ndarray], statistic, colour) -> None:
    """Draw the 95% interval of a statistic of samples [T, runs], an array per task."""
    places = np.unique(np.linspace(0, len(xs) - 1, INTERVAL_POINTS).astype(int))
    low, high = interval(statistic, [task[places] for task in samples])
    axes.fill_between(xs[places], low, high, color=colour, alpha=0.18, linewidth=0)


def _draw_published_curve(axes: "Axes", task: str, right: float) -> list[float]:
    """Draw the published curve as a band; return its ends at frames up to `right`."""
    band = published_curve(task)
    if band is None or band.frames[0] > right:
        return []
    name = f"DreamerV2 published, range of {band.seeds} runs"
    style = {"color": PUBLISHED, "alpha": 0.2, "gid": PUBLISHED}
    axes.fill_between(band.frames, band.low, band.high, label=name, **style)
    axes.plot(band.frames, band.mean, color=PUBLISHED, linewidth=1.2)
    inside = band.frames <= right  # later milestones would squeeze our curves
    return [*band.low[inside], *band.high[inside]]


def _draw_published(axes: "Axes", task: str, right: float) -> None:
    """Draw the published curve as a band, and known scores as lines if they are near ours."""
    shown = [*axes.dataLim.intervaly] if axes.has_data() else []
    shown += _draw_published_curve(axes, task, right)
    known = published_scores(task)
    if suite_of(task) == "embedded":
        known = dict(zip(("random play", "best possible"), references(task), strict=False))
    if not known or not shown:
        return
    low, high = min(shown), max(shown)
    reach = NEAR * (high - low)
    near = [value for value in known.values() if low - reach <= value <= high + reach]
    low, high = min([low, *near]), max([high, *near])
    margin = 0.05 * (high - low) or 1.0
    axes.set_ylim(low - margin, high + margin)
    for (name, value), dashes in zip(known.items(), itertools.cycle(DASHES)):
        style = {"color": PUBLISHED, "linewidth": 1, "linestyle": dashes, "gid": PUBLISHED}
        if value in near:
            axes.axhline(value, label=f"{name}: {value:,.6g}", **style)
        else:
            where = "above" if value > high else "below"
            axes.plot([], [], label=f"{name}: {value:,.6g} ({where})", **style)


def _smooth(curve: Curve, bins: int, window: int) -> Line:
    """Return a curve as arrays, averaged within bins, then over a running window of points."""
    xs, ys = _lines(curve)
    if bins and len(xs) > 1:
        edges = np.linspace(0, xs[-1], bins + 1)
        place = np.clip(np.digitize(xs, edges) - 1, 0, bins - 1)
        kept = np.unique(place)
        ys = np.array([ys[place == i].mean() for i in kept])
        xs = (edges[kept] + edges[kept + 1]) / 2
    if window > 1:
        totals = np.concatenate([[0.0], np.cumsum(ys)])
        first = np.maximum(np.arange(len(ys)) + 1 - window, 0)
        last = np.arange(len(ys)) + 1
        ys = (totals[last] - totals[first]) / (last - first)
    return xs, ys


def _smoothing_words(bins: int, window: int) -> list[str]:
    words = [f"mean of {bins} bins"] if bins else []
    return words + ([f"running mean of {window} points"] if window > 1 else [])


def _lines(curve: Curve) -> Line:
    xs, ys = np.array(curve, float).T
    return xs, ys


def _describe(lines: Sequence[Line]) -> str:
    last = [ys[-1] for _, ys in lines]
    return f"{len(lines)} seeds, last values from {min(last):.4g} to {max(last):.4g}"


def _new_figure(height: float = 3.8) -> "tuple[Figure, Axes]":
    from matplotlib.figure import Figure

    figure = Figure((6.0, height), dpi=110, layout="constrained", facecolor="white")
    return figure, figure.add_subplot()


def _score_axis(axes: "Axes") -> None:
    """Let the x axis have ticks between whole numbers."""
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(ScalarFormatter())


def _legend(*panels: "Axes") -> None:
    """Draw a legend below the panels of a figure, with each label once.

    If there are many, the first and the last of ours remain, and all that are published.
    """
    from matplotlib.lines import Line2D

    entries = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries |= dict(zip(labels, handles, strict=True))
    others = [name for name, handle in entries.items() if handle.get_gid() == PUBLISHED]
    ours = [name for name in entries if name not in others]
    if len(entries) > MAX_LEGEND:
        keep = max(2, (MAX_LEGEND - len(others)) // 2)
        ours[keep:-keep] = [f"... {len(ours) - 2 * keep} more ..."] if len(ours) > 2 * keep else []
    labels = [legend_text(name) for name in (*ours, *others)]
    blank = Line2D([], [], color="none")
    handles = [entries.get(name, blank) for name in (*ours, *others)]
    columns = 1 if max(map(len, labels), default=0) > 45 else 2
    style = {"frameon": False, "fontsize": 8, "ncols": columns}
    figure = panels[0].figure
    figure.set_figheight(figure.get_figheight() + 0.17 * -(-len(handles) // columns))
    figure.legend(handles, labels, loc="outside lower center", **style)


def _picture(figure: "Figure", name: str, title: str, text: str) -> Picture:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return Picture(name, title, text.strip(), content.getvalue())


def _file(text: str) -> str:
    """Return a text as a part of a file name."""
    name = "".join(c if c.isalnum() or c in "-." else "_" for c in text)
    return name if len(name) <= 60 else f"{name[:50]}_{zlib.crc32(text.encode()):08x}"
