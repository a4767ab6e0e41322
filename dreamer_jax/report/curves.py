"""curves.png: what metrics.jsonl holds, one small panel per key, one line per member."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dreamer_jax.errors import lookup
from dreamer_jax.files import replacing
from dreamer_jax.types import HYPER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

X_LABELS = {"frame": "frames", "env_step": "env steps", "update": "updates"}

# Panels in reading order: how good is it, how well does it model, how does it act.
PANELS = (
    "train_return",
    "eval_return",
    "train_length",
    "model_loss",
    "image_loss",
    "reward_loss",
    "discount_loss",
    "state_loss",
    "kl",
    "kl_loss",
    "prior_entropy",
    "posterior_entropy",
    "actor_loss",
    "actor_entropy",
    "critic_loss",
    "critic",
    "critic_target",
    "imagined_reward",
    "ensemble_loss",
    "expl_imagined_reward",
)
UNITS = {
    "train_length": "env steps",
    "kl": "nats",
    "kl_loss": "nats",
    "prior_entropy": "nats",
    "posterior_entropy": "nats",
    "actor_entropy": "nats",
    "image_loss": "nats",
    "reward_loss": "nats",
    "discount_loss": "nats",
    "state_loss": "nats",
    "ensemble_loss": "nats",
}

# Okabe and Ito's colours, told apart with any colour vision; without their yellow and black.
FEW_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MAX_LEGEND = 12  # entries; of more, the legend names the first and the last three
MAX_COLUMNS = 3
SPARSE = 20  # a line of fewer points gets markers
INK, GRID = "#222222", "#DDDDDD"

Line = tuple[np.ndarray, np.ndarray]  # x [T] ascending, y [T] finite


def draw_curves(
    rows: Iterable[Mapping[str, Any]],
    path: str | Path,
    *,
    x: str = "frame",
    keys: Sequence[str] | None = None,
    title: str = "",
) -> None:
    """Draws rows of metrics.jsonl into a PNG, which is replaced whole.

    Several members also get their mean, a bold line, over the x that all of them have reached.
    Where members differ in hyperparameters (see rows.HYPER), every setting has a colour and a mean.

    Args:
      rows: of `read_metrics`; a key that is missing or None in a row is a point left out.
      path: the PNG; its directory exists.
      x: frame, env_step or update.
      keys: one panel each; None for those of `PANELS` that the rows have.
      title: above the panels.

    Raises:
      ValueError: `x` is none of the three.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    x_label = lookup(X_LABELS, x, "x")
    rows = list(rows)
    seeds = {row["member"]: row["seed"] for row in sorted(rows, key=lambda row: row["member"])}
    settings = {row["member"]: _setting(row) for row in rows}
    panels = {key: _lines(rows, x, key) for key in (PANELS if keys is None else keys)}
    if keys is None:
        panels = {key: lines for key, lines in panels.items() if lines}
    figure = _figure(panels, seeds, settings, x_label, title)
    FigureCanvasAgg(figure)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def mean_line(lines: Sequence[Line]) -> Line | None:
    """Mean of lines over the x range that all have; None if there is no such range.

    Lines are joined linearly between their points, so that members which finish episodes at
    different times can be averaged. Nothing is extended beyond a line's ends.
    """
    low = max(xs[0] for xs, _ in lines)
    high = min(xs[-1] for xs, _ in lines)
    grid = np.unique(np.concatenate([xs for xs, _ in lines]))
    grid = grid[(low <= grid) & (grid <= high)]
    if not grid.size:
        return None
    return grid, np.mean([np.interp(grid, xs, ys) for xs, ys in lines], axis=0)


def _lines(rows: Sequence[Mapping[str, Any]], x: str, key: str) -> dict[int, Line]:
    """Member -> its line; members without a point are left out."""
    points: dict[int, dict[float, float]] = {}
    for row in rows:
        value = row.get(key)
        if isinstance(value, int | float) and np.isfinite(value):
            points.setdefault(row["member"], {})[row[x]] = value
    return {
        member: tuple(np.array(sorted(line.items()), dtype=float).T)
        for member, line in sorted(points.items())
    }


def _setting(row: Mapping[str, Any]) -> str:
    """A member's values of what members differ in; empty if that is the seed alone."""
    named = {key.removeprefix(HYPER): v for key, v in row.items() if key.startswith(HYPER)}
    return ", ".join(f"{name} {value}" for name, value in named.items())


def _figure(
    panels: Mapping[str, Mapping[int, Line]],
    seeds: Mapping[int, int],
    settings: Mapping[int, str],
    x_label: str,
    title: str,
) -> "Figure":
    from matplotlib.figure import Figure

    columns = max(1, min(MAX_COLUMNS, len(panels)))
    lines = max(1, -(-len(panels) // columns))
    # One panel alone is drawn larger than one of many.
    width, height = (7.0, 4.2) if len(panels) <= 1 else (4.0 * columns, 2.7 * lines + 0.6)
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained", facecolor="white")
    figure.get_layout_engine().set(w_pad=0.1, h_pad=0.1)
    if title:
        figure.suptitle(title, fontsize=13, fontweight="bold", color=INK, parse_math=False)
    if not panels:
        figure.text(0.5, 0.5, "no data yet", ha="center", va="center", fontsize=16, color="#777777")
        return figure
    several = len(set(settings.values())) > 1
    names = {m: settings[m] for m in seeds} if several else _seed_names(seeds)
    colours = _colours(list(dict.fromkeys(names.values())))
    ends = [xs[-1] for members in panels.values() for xs, _ in members.values()]
    for index, (key, members) in enumerate(panels.items()):
        axes = figure.add_subplot(lines, columns, index + 1)
        _style(axes, key, x_label if index + columns >= len(panels) else "")
        # One range for all panels, so that they can be read against each other.
        axes.set_xlim(0, 1.02 * max([1.0, *ends]))
        _draw(axes, members, {m: colours[name] for m, name in names.items()}, settings)
    _legend(figure, colours, mean="" if several or len(seeds) == 1 else "mean")
    return figure


def _seed_names(seeds: Mapping[int, int]) -> dict[int, str]:
    twice = len(set(seeds.values())) < len(seeds)
    return {m: f"seed {s}" + (f" (member {m})" if twice else "") for m, s in seeds.items()}


def _style(axes: "Axes", key: str, x_label: str) -> None:
    from matplotlib.ticker import EngFormatter, MaxNLocator

    axes.set_title(key, fontsize=11, loc="left", color=INK, parse_math=False)
    axes.set_xlabel(x_label, fontsize=10, color=INK)
    axes.set_ylabel(UNITS.get(key, ""), fontsize=10, color=INK)
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
        axes.text(
            *(0.5, 0.5, "no data yet"),
            ha="center",
            va="center",
            fontsize=11,
            color="#777777",
            transform=axes.transAxes,
        )
        axes.set_yticks([])
        return
    width, alpha = (1.6, 1.0) if len(colours) == 1 else (0.9, 0.65)
    if len(colours) > MAX_LEGEND:
        alpha = 0.35
    for member, (xs, ys) in members.items():
        marker = {"marker": "o", "markersize": 3} if len(xs) < SPARSE else {}
        axes.plot(xs, ys, color=colours[member], linewidth=width, alpha=alpha, **marker)
    for setting in dict.fromkeys(settings.values()):
        alike = [member for member in members if settings[member] == setting]
        mean = mean_line([members[member] for member in alike]) if len(alike) > 1 else None
        if mean is not None:
            one = len(set(settings.values())) == 1
            axes.plot(*mean, color=INK if one else colours[alike[0]], linewidth=2.2)


def _legend(figure: "Figure", colours: Mapping[str, Any], mean: str) -> None:
    from matplotlib.lines import Line2D

    shown = list(colours)
    if len(shown) > MAX_LEGEND:
        shown = shown[:3] + shown[-3:]
    handles = [Line2D([], [], color=colours[name], label=name) for name in shown]
    if len(colours) > len(shown):
        handles.insert(3, Line2D([], [], color="none", label="..."))
    if mean:
        handles.append(Line2D([], [], color=INK, linewidth=2.2, label=mean))
    inches = 0.5 + 0.07 * max((len(name) for name in shown), default=0)
    fits = max(1, int(figure.get_figwidth() / inches))
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=min(fits, len(handles)),
        frameon=False,
        fontsize=9,
        handlelength=1.4,
    )


def _colours(names: Sequence[str]) -> dict[str, Any]:
    if len(names) <= len(FEW_COLOURS):
        return dict(zip(names, FEW_COLOURS, strict=False))
    from matplotlib import colormaps

    # Short of its end: the yellow there is too pale for a thin line on white.
    ramp = colormaps["viridis"](np.linspace(0.0, 0.9, len(names)))
    return dict(zip(names, map(tuple, ramp), strict=True))
