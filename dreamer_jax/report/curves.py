"""Draw curves.png: the rows of metrics.jsonl, a panel per metric and a line per member."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamer_jax.files import replacing
from dreamer_jax.metrics import HYPER, PLOTTED

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, distinguishable with any colour vision; without their yellow and black.
FEW_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MAX_LEGEND = 12  # entries; beyond it only the first and the last three
MAX_COLUMNS = 3
SPARSE = 20  # a line of fewer points gets markers
INK, GRID = "#222222", "#DDDDDD"

Line = tuple[np.ndarray, np.ndarray]  # x [T] ascending, y [T] finite


def draw_curves(
    rows: Sequence[Mapping[str, Any]],
    path: Path,
    *,
    keys: Sequence[str] | None = None,
    title: str = "",
) -> None:
    """Draw rows of metrics.jsonl into a PNG, which is replaced atomically.

    Several members also get a bold line: their mean, over the x range that all of them cover. If
    members differ in hyperparameters (`metrics.HYPER`), each setting has a colour and a mean.

    Args:
        rows: as from `read_metrics`; a key that is missing or None in a row gives no point.
        keys: one panel each; None for those of `metrics.PLOTTED` that the rows have.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    seeds = {row["member"]: row["seed"] for row in sorted(rows, key=lambda row: row["member"])}
    settings = {row["member"]: _setting(row) for row in rows}
    panels = {key: _lines(rows, key) for key in keys or PLOTTED}
    if not keys:
        panels = {key: lines for key, lines in panels.items() if lines}
    figure = panel_figure(panels, seeds, settings, title)
    FigureCanvasAgg(figure)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def mean_line(lines: Sequence[Line]) -> Line | None:
    """Return the mean of lines over their common x range; None if they have none.

    Lines are interpolated linearly, because members finish episodes at different times.
    """
    low = max(xs[0] for xs, _ in lines)
    high = min(xs[-1] for xs, _ in lines)
    grid = np.unique(np.concatenate([xs for xs, _ in lines]))
    grid = grid[(low <= grid) & (grid <= high)]
    if not grid.size:
        return None
    return grid, np.mean([np.interp(grid, xs, ys) for xs, ys in lines], axis=0)


def _lines(rows: Sequence[Mapping[str, Any]], key: str) -> dict[int, Line]:
    """Return the line of each member that has a point."""
    points: dict[int, dict[float, float]] = {}
    for row in rows:
        value = row.get(key)
        if isinstance(value, int | float) and np.isfinite(value):
            points.setdefault(row["member"], {})[row["frame"]] = value
    return {
        member: tuple(np.array(sorted(line.items()), dtype=float).T)
        for member, line in sorted(points.items())
    }


def _setting(row: Mapping[str, Any]) -> str:
    """Return a member's own hyperparameters in words; empty if members differ only in the seed."""
    named = [(key.removeprefix(HYPER), v) for key, v in row.items() if key.startswith(HYPER)]
    return ", ".join(f"{name} {value}" for name, value in named)


def panel_figure(
    panels: Mapping[str, Mapping[int, Line]],
    seeds: Mapping[int, int],
    settings: Mapping[int, str],
    title: str,
    units: Mapping[str, str] = PLOTTED,
) -> "Figure":
    """Return a figure with a panel per metric and a line per member.

    Args:
        panels: the lines, by metric and member.
        seeds: by member.
        settings: by member, in words.
        title: of the figure; may be empty.
        units: by metric.
    """
    from matplotlib.figure import Figure

    columns = max(1, min(MAX_COLUMNS, len(panels)))
    lines = max(1, -(-len(panels) // columns))
    # A single panel is drawn larger.
    width, height = (7.0, 4.2) if len(panels) <= 1 else (4.0 * columns, 2.7 * lines + 0.6)
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    if title:
        figure.suptitle(shorten(title), fontsize=13, fontweight="bold", color=INK, parse_math=False)
    if not panels:
        figure.text(0.5, 0.5, "no data yet", ha="center", va="center", fontsize=16, color="#777777")
        return figure
    several = len(set(settings.values())) > 1
    names = {m: settings[m] for m in seeds} if several else _seed_names(seeds)
    colours = pick_colours(list(dict.fromkeys(names.values())))
    right = max([1.0, *(xs[-1] for members in panels.values() for xs, _ in members.values())])
    for index, (key, members) in enumerate(panels.items()):
        axes = figure.add_subplot(lines, columns, index + 1)
        x_label = "frames" if index + columns >= len(panels) else ""
        style_axes(axes, key, x_label, units.get(key, ""))
        # All panels share the range, so that they can be compared.
        axes.set_xlim(0, 1.02 * right)
        _draw(axes, members, {m: colours[name] for m, name in names.items()}, settings)
    if seeds:
        _legend(figure, colours, mean=len(seeds) > 1 and not several)
    return figure


def _seed_names(seeds: Mapping[int, int]) -> dict[int, str]:
    repeated = len(set(seeds.values())) < len(seeds)
    return {m: f"seed {s}" + (f" (member {m})" if repeated else "") for m, s in seeds.items()}


def style_axes(axes: "Axes", title: str, x_label: str, y_label: str) -> None:
    """Give axes the look of all figures: a title on the left, a faint grid, engineering ticks."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.set_title(shorten(title), fontsize=11, loc="left", color=INK, parse_math=False)
    axes.set_xlabel(x_label, fontsize=10, color=INK, parse_math=False)
    axes.set_ylabel(y_label, fontsize=10, color=INK, parse_math=False)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=9, color=GRID, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#AAAAAA")


def _draw(
    axes: "Axes",
    members: Mapping[int, Line],
    colours: Mapping[int, Any],
    settings: Mapping[int, str],
) -> None:
    if not members:
        style = {"ha": "center", "va": "center", "fontsize": 11, "color": "#777777"}
        axes.text(0.5, 0.5, "no data yet", transform=axes.transAxes, **style)
        axes.set_yticks([])
        return
    width, alpha = (1.6, 1.0) if len(colours) == 1 else (0.9, 0.65)
    if len(colours) > MAX_LEGEND:
        alpha = 0.35
    style = {"linewidth": width, "alpha": alpha}
    draw_lines(axes, list(members.values()), [colours[member] for member in members], **style)
    several = len(set(settings.values())) > 1
    for setting in dict.fromkeys(settings.values()):
        group = [member for member in members if settings[member] == setting]
        mean = mean_line([members[member] for member in group]) if len(group) > 1 else None
        if mean is not None:
            axes.plot(*mean, color=colours[group[0]] if several else INK, linewidth=2.2)


def draw_lines(
    axes: "Axes", lines: Sequence[Line], colours: Sequence[Any], *, linewidth: float, alpha: float
) -> None:
    """Draw a line per member, as one artist: a thousand of their own take seconds."""
    from matplotlib.collections import LineCollection

    style = {"linewidths": linewidth, "alpha": alpha}
    points = [np.column_stack(line) for line in lines]
    axes.add_collection(LineCollection(points, colors=colours, **style))
    axes.autoscale_view()  # matplotlib before 3.11 does not do so for collections
    for (xs, ys), colour in zip(lines, colours, strict=True):
        if len(xs) < SPARSE:
            axes.plot(xs, ys, "o", markersize=3, color=colour, alpha=alpha)


def _legend(figure: "Figure", colours: Mapping[str, Any], mean: bool) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], color=colour, label=legend_text(name)) for name, colour in colours.items()
    ]
    if len(handles) > MAX_LEGEND:
        handles[3:-3] = [Line2D([], [], color="none", label="...")]
    if mean:
        handles.append(Line2D([], [], color=INK, linewidth=2.2, label="mean"))
    inches = 0.5 + 0.07 * max(len(handle.get_label()) for handle in handles)
    columns = min(len(handles), max(1, int(figure.get_figwidth() / inches)))
    style = {"frameon": False, "fontsize": 9, "handlelength": 1.4}
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, **style)


def shorten(text: str) -> str:
    """Return a text of at most the width of a figure; of a longer one its beginning and its end."""
    return text if len(text) <= 80 else f"{text[:52]}…{text[-27:]}"


def legend_text(name: str) -> str:
    """Return a name as a legend takes it, short and without mathematics."""
    return shorten(name).replace("$", r"\$")


def pick_colours(names: Sequence[str]) -> dict[str, Any]:
    """Return a colour for each name, distinguishable if there are few."""
    from matplotlib import colormaps

    colours = FEW_COLOURS
    if len(names) > len(colours):
        # Without its end: that yellow is too pale for a thin line on white.
        colours = map(tuple, colormaps["viridis"](np.linspace(0.0, 0.9, len(names))))
    return dict(zip(names, colours, strict=False))
