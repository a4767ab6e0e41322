"""Rows of results: scores, aggregates, the paper's Table 1, ablations, grids, health."""

import itertools
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from dreamer_jax.report.results.runs import BASE, Member, Run, by_variant
from dreamer_jax.report.scores.published import (
    SUITES,
    aggregate_atari,
    atari_methods,
    published_curve,
    published_scores,
    references,
    suite_of,
)
from dreamer_jax.report.scores.score import Point, frames_to_reach, is_number
from dreamer_jax.report.scores.statistics import (
    MIN_SEEDS,
    STATISTICS,
    Estimate,
    Scores,
    estimate,
    mean,
    probability_of_improvement,
)

REACHED = (0.5, 0.9)  # normalised scores whose frames are reported


class Table(NamedTuple):
    """Rows below headings; the keys of `headings` are those of the rows to show, in order."""

    name: str  # of its part of results.json
    title: str
    headings: Mapping[str, str]
    rows: Sequence[Mapping[str, Any]]
    note: str = ""


class Grid(NamedTuple):
    """Scores over the values of one or two hyperparameters of a task."""

    task: str
    x: str
    y: str | None  # None if one hyperparameter differs
    xs: Sequence[float]
    ys: Sequence[float | None]
    cells: Mapping[tuple[float | None, float], list[float]]  # by y and x, a score per seed


def scored(members: Sequence[Member]) -> list[float]:
    """Return the scores of the members that have one."""
    return [point.value for member in members if (point := member.score) is not None]


# Headings of the columns that say how far the compared runs had come.
FRAMES = {"first_frame": "At frame, from", "last_frame": "to"}


def frames_of(members: Iterable[Member]) -> dict[str, float]:
    """Return the least and the greatest frame of the members' scores."""
    frames = [member.score.x for member in members if member.score]
    return {"first_frame": min(frames), "last_frame": max(frames)}


def frames_of_suite(runs: Sequence[Run], suite: str, labels: Collection[str]) -> dict[str, float]:
    """Return the least and the greatest frame of the scores of variants, over a suite's tasks."""
    groups = (group for task, group in by_variant(runs).items() if suite_of(task) == suite)
    return frames_of(m for group in groups for label in labels for m in group.get(label, ()))


def normalized_scores(runs: Sequence[Run], suite: str) -> dict[str, Scores]:
    """Return normalised scores of a suite by variant and task, a number per member."""
    scores: dict[str, dict[str, list[float]]] = {}
    for task, variants in by_variant(runs).items():
        for label, members in variants.items() if suite_of(task) == suite else ():
            values = [value for m in members if (value := m.normalized_score) is not None]
            if values:
                scores.setdefault(label, {})[task] = values
    return scores


def all_tables(runs: Sequence[Run]) -> list[Table]:
    """Return every table that these runs have rows for."""
    tables = [
        scores_table(runs),
        published_table(runs),
        atari_table(runs),
        aggregates_table(runs),
        improvement_table(runs),
        efficiency_table(runs),
        ablations_table(runs),
        health_table(runs),
    ]
    return [table for table in tables if table.rows]


def scores_table(runs: Sequence[Run]) -> Table:
    rows = []
    for task, variants in by_variant(runs).items():
        for label, members in variants.items():
            values = scored(members)
            row = {"task": task, "variant": label, "members": len(members), "n": len(values)}
            row["unfinished"] = sum(member.run.state != "finished" for member in members)
            if values:
                whole = estimate(mean, {task: values})
                normal = [m.normalized_score for m in members if m.normalized_score is not None]
                row |= {
                    "mean": whole.value,
                    "low": whole.low,
                    "high": whole.high,
                    "std": statistics.stdev(values) if len(values) > 1 else None,
                    "median": statistics.median(values),
                    "min": min(values),
                    "max": max(values),
                    "normalized": statistics.fmean(normal) if normal else None,
                } | frames_of(members)
            rows.append(row)
    headings = {
        "task": "Task",
        "variant": "Variant",
        "n": "Seeds with a score",
        "unfinished": "Unfinished",
        "mean": "Mean",
        "low": "95% from",
        "high": "to",
        "std": "Std",
        "median": "Median",
        "min": "Worst",
        "max": "Best",
        "normalized": "Normalised",
        **FRAMES,
    }
    note = (
        "The score of a member is the mean return of its last evaluation. Std is that of seeds. "
        f"With fewer than {MIN_SEEDS} seeds there is no interval."
    )
    return Table("scores", "Scores", headings, rows, note)


def published_table(runs: Sequence[Run]) -> Table:
    """Compare mean scores with the published ones of the same tasks."""
    rows, methods = [], {}
    for task, variants in by_variant(runs).items():
        published = published_scores(task)
        methods |= dict.fromkeys(published)
        for label, members in variants.items() if published else ():
            if values := scored(members):
                frame = max(m.score.x for m in members if m.score)
                ours = {"score": statistics.fmean(values), "n": len(values), "frame": frame}
                rows.append({"task": task, "variant": label} | ours | published)
    headings = {
        "task": "Task",
        "variant": "Variant",
        "n": "Seeds",
        "frame": "At frame",
        "score": "Our mean",
    }
    note = "Published figures are final scores, and those at the frames in the heading."
    headings |= {name: name for name in methods}
    return Table("published", "Published scores", headings, rows, note)


def atari_table(runs: Sequence[Run]) -> Table:
    """Return Table 1 of Hafner et al. 2021 with rows for our variants."""
    published, rows = atari_methods(), []
    known = {task.replace("_", ""): task for task in next(iter(published.values()))}
    ours: dict[str, dict[str, float]] = {}
    counted: dict[str, list[Member]] = {}
    for task, variants in by_variant(runs).items():
        for label, members in variants.items():
            if (game := known.get(task.replace("_", ""))) and (values := scored(members)):
                ours.setdefault(label, {})[game] = statistics.fmean(values)
                counted.setdefault(label, []).extend(members)
    for label, scores in ours.items():
        rows.append(_atari_row(label, scores, "ours") | frames_of(counted[label]))
        for name, others in published.items():
            if len(scores) < len(others):
                same = {game: others[game] for game in scores}
                rows.append(_atari_row(name, same, f"published, the games of {label}"))
    if ours:
        rows += [_atari_row(name, others, "published") for name, others in published.items()]
    headings = {
        "method": "Method",
        "source": "Source",
        "games": "Games",
        "gamer_median": "Gamer median",
        "gamer_mean": "Gamer mean",
        "record_mean": "Record mean",
        "clipped_record_mean": "Clipped record mean",
        **FRAMES,
    }
    note = (
        "Table 1 of Hafner et al. 2021 at 199M frames. Aggregates of other games are not "
        "comparable: where we have fewer than 55, the published ones of the same games are there."
    )
    return Table("atari_table_1", "Atari: Table 1 of the paper", headings, rows, note)


def _atari_row(method: str, scores: Mapping[str, float], source: str) -> dict[str, Any]:
    head = {"method": method, "source": source, "games": len(scores)}
    return head | aggregate_atari(scores)._asdict()


def aggregates_table(runs: Sequence[Run]) -> Table:
    rows = []
    for suite, about in SUITES.items():
        for label, scores in normalized_scores(runs, suite).items():
            for name, statistic in STATISTICS.items() if len(scores) > 1 else ():
                row = {"suite": about.title, "variant": label, "statistic": name}
                rows.append(
                    row
                    | estimate(statistic, scores)._asdict()
                    | frames_of_suite(runs, suite, {label})
                )
    headings = {"suite": "Tasks", "variant": "Variant", "statistic": "Statistic", **ESTIMATE}
    headings |= FRAMES
    note = "Of normalised scores, over tasks and runs. Intervals are bootstrapped within tasks."
    return Table("aggregates", "Aggregates over tasks", headings, rows, note)


ESTIMATE = {
    "value": "Value",
    "low": "95% from",
    "high": "to",
    "tasks": "Number of tasks",
    "runs": "Fewest runs of a task",
}


def improvement_table(runs: Sequence[Run]) -> Table:
    rows = []
    for suite, about in SUITES.items():
        scores = normalized_scores(runs, suite)
        for label in scores:
            if label != BASE and scores[label].keys() & scores.get(BASE, {}).keys():
                result: Estimate = probability_of_improvement(scores[label], scores[BASE])
                rows.append(
                    {"suite": about.title, "variant": label}
                    | result._asdict()
                    | frames_of_suite(runs, suite, {label, BASE})
                )
    headings = {"suite": "Tasks", "variant": "Variant", **ESTIMATE, **FRAMES}
    headings["value"] = "Probability"
    note = f"How probably a run of a variant beats one of '{BASE}'; ties count one half."
    return Table("improvement", "Probability of improvement", headings, rows, note)


def efficiency_table(runs: Sequence[Run]) -> Table:
    """Return the frames that members take to reach shares of their task's scale."""
    rows = []
    for task, variants in by_variant(runs).items():
        known = references(task)
        for share in REACHED if known else ():
            threshold = known.random + share * (known.gamer - known.random)
            for label, members in variants.items():
                frames = [frames_to_reach(m.returns, threshold) for m in members if m.returns]
                row = {"task": task, "variant": label, "normalized": share, "return": threshold}
                rows += [row | _reached(frames)] if frames else []
            if band := published_curve(task):
                frames = [Point(*p) for p in zip(band.frames, band.mean, strict=True)]
                row = {"task": task, "variant": "DreamerV2, published mean", "normalized": share}
                row |= {"return": threshold} | _reached([frames_to_reach(frames, threshold)])
                rows.append(row)
    headings = {
        "task": "Task",
        "variant": "Variant",
        "normalized": "Normalised score",
        "return": "Return",
        "n": "Seeds",
        "reached": "Reached it",
        "median_frames": "Frames, median",
        "max_frames": "Frames, slowest seed",
    }
    note = (
        "The first evaluation with at least this return. The median counts seeds that never "
        "reached it as slower than all others. Published curves are known at milestones only."
    )
    return Table("efficiency", "Frames to reach a score", headings, rows, note)


def _reached(frames: Sequence[float | None]) -> dict[str, Any]:
    reached = sorted(x for x in frames if x is not None)
    ordered = reached + [None] * (len(frames) - len(reached))
    return {
        "n": len(frames),
        "reached": len(reached),
        "median_frames": ordered[len(ordered) // 2],  # the later one of an even number
        "max_frames": ordered[-1],
    }


def ablations_table(runs: Sequence[Run]) -> Table:
    """Return the difference that each variant makes, by task."""
    rows = []
    for task, variants in by_variant(runs).items():
        base = scored(variants.get(BASE, []))
        for label, members in variants.items() if base else ():
            values = scored(members)
            if label == BASE or not values:
                continue
            ours, theirs = statistics.fmean(base), statistics.fmean(values)
            row = {"task": task, "variant": label, "n": len(values), "base_n": len(base)}
            row |= {"score": theirs, "base": ours, "difference": theirs - ours}
            known = references(task)
            row["normalized"] = known and (theirs - ours) / (known.gamer - known.random)
            rows.append(row | frames_of([*members, *variants[BASE]]))
    headings = {
        "task": "Task",
        "variant": "Variant",
        "n": "Seeds",
        "score": "Mean score",
        "base": f"Mean of '{BASE}'",
        "base_n": f"Seeds of '{BASE}'",
        "difference": "Difference",
        "normalized": "Difference, normalised",
        **FRAMES,
    }
    return Table("ablations", "Ablations and variants", headings, rows)


# Headings of the columns that say which member a row is about.
PLACE = {
    "run": "Run",
    "member": "Member",
    "seed": "Seed",
    "task": "Task",
    "variant": "Variant",
}


def place_of(member: Member) -> dict[str, Any]:
    """Return the entries of a member in the columns of `PLACE`."""
    return {
        "run": member.run.name,
        "member": member.number,
        "seed": member.seed,
        "task": member.task,
        "variant": member.label,
    }


def health_table(runs: Sequence[Run]) -> Table:
    rows = []
    for member in (member for run in runs for member in run.members):
        latest = member.latest
        rows.append(
            place_of(member)
            | {
                "state": member.state,
                "progress": member.progress and 100 * member.progress,
                "frame": latest.get("frame"),
                "update": latest.get("update"),
                "skipped_updates": latest.get("skipped_updates", 0),
                "env_faults": latest.get("env_faults", 0),
                "resumes": member.run.resumes,
                "frames_per_s": latest.get("frames_per_s"),
                "train_return": latest.get("train_return"),
                "score": member.score and member.score.value,
            }
        )
    headings = PLACE | {
        "state": "State",
        "progress": "% done",
        "frame": "Frame",
        "update": "Updates",
        "skipped_updates": "Non-finite updates",
        "env_faults": "Replaced environments",
        "resumes": "Resumed",
        "frames_per_s": "Frames/s",
        "train_return": "Training return",
        "score": "Score",
    }
    return Table("health", "Members and their health", headings, rows)


def grids(runs: Sequence[Run]) -> list[Grid]:
    """Return a grid for each task and pair of hyperparameters that differ, or the only one.

    Hyperparameters are settings that are numbers, of which members have several. Scores of a cell
    are those of all members with its values, whatever their other hyperparameters; members that
    differ in anything else are left out.
    """
    found = []
    for task, variants in by_variant(runs).items():
        members = [m for group in variants.values() for m in group if m.score]
        settings = dict.fromkeys(itertools.chain.from_iterable(m.setting for m in members))
        names = [
            name
            for name in settings
            if len({value for m in members if is_number(value := _value(m, name))}) > 1
        ]
        members = [m for m in members if set(m.setting) <= set(names)]
        pairs = list(itertools.combinations(names, 2)) or [(name, None) for name in names]
        for x, y in pairs:
            cells: dict[tuple[float | None, float], list[float]] = {}
            for m in members:
                values = [name and _value(m, name) for name in (y, x)]
                if all(value is None or is_number(value) for value in values):
                    cells.setdefault(tuple(values), []).append(m.score.value)
            ys, xs = ({place[i] for place in cells} for i in range(2))
            if len(cells) > 1:
                found.append(Grid(task, x, y, sorted(xs), sorted(ys, key=lambda v: v or 0), cells))
    return found


def _value(member: Member, name: str) -> Any:
    """Return a member's value of a hyperparameter or config key."""
    return member.setting.get(name, member.run.config.get(name))
