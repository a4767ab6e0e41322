"""Read runs from their work directories: their members, how far they are, what they measured."""

import contextlib
import gc
import itertools
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dreamer_jax.errors import UsageError
from dreamer_jax.metrics import HYPER
from dreamer_jax.report.aggregates import FROZEN
from dreamer_jax.report.metrics_log import ROW_KEYS, iter_rows, parse_json
from dreamer_jax.report.scores.published import normalize
from dreamer_jax.report.scores.score import (
    METRIC,
    Curve,
    Point,
    add_points,
    is_number,
    make_curve,
    score,
)
from dreamer_jax.report.video import OpenLoopErrors, newest_errors

CONFIG, METRICS, SUMMARY, LOCK = "config.json", "metrics.jsonl", "summary.json", "lock"
RESUMES = "resumes.log"  # a line for each time that the run was resumed
NOT_RUNS = {"replay", "checkpoints", "checkpoints.damaged", "videos", "wandb"}
# Keys whose values make no variant of an agent: who trains, on what, and how it is evaluated.
NOT_COMPARED = ("task", "seeds", "members.", "eval_every", "eval_episodes", "replay.storage")
BASE = "ours"  # the variant with the commonest value of every key
SILENCE = 120.0  # seconds, at least, after which a run that writes nothing is not running

Problems = list[str]  # a message each, which names a file


@dataclass
class Run:
    """A work directory, as far as it can be read."""

    path: Path
    name: str
    config: dict[str, Any]  # by dotted name
    state: str = "stopped"  # or "finished" or "running"
    resumes: int = 0
    members: "list[Member]" = field(default_factory=list)

    @property
    def task(self) -> str:
        return _printable(str(self.config.get("task", "unknown task")))

    @property
    def steps(self) -> int | None:
        """Return the agent steps of the whole run; None if the config does not say."""
        steps = self.config.get("steps")
        return int(steps) if is_number(steps) and steps > 0 else None


@dataclass
class Member:
    """A member of a run, with what its rows say."""

    run: Run
    number: int
    seed: int
    setting: dict[str, Any] = field(default_factory=dict)  # what distinguishes it, but for the seed
    curves: dict[str, Curve] = field(default_factory=dict)  # by metric, against frames
    latest: dict[str, Any] = field(default_factory=dict)  # the last value of every metric
    errors: OpenLoopErrors | None = None  # of its newest video
    scored_at: float = math.inf  # frames; the score is the last evaluation at or before them

    @property
    def task(self) -> str:
        return self.run.task

    @property
    def label(self) -> str:
        """Return the member's variant in words."""
        named = (f"{name} {value}" for name, value in self.setting.items())
        return _printable(", ".join(named)) or BASE

    @property
    def returns(self) -> Curve:
        """Return the evaluations so far, against frames."""
        return self.curves.get(METRIC, ())

    @property
    def score(self) -> Point | None:
        return score(self.returns, self.scored_at)

    @property
    def normalized_score(self) -> float | None:
        return self.score and normalize(self.task, self.score.value)

    @property
    def progress(self) -> float | None:
        """Return the share of the run that is done, 0 to 1; None if its length is not known."""
        return self.run.steps and min(1.0, self.latest.get("env_step", 0) / self.run.steps)

    @property
    def state(self) -> str:
        """Return the state of the run, or that the member is frozen."""
        return "frozen" if self.latest.get(FROZEN) else self.run.state


def read_runs(
    paths: Iterable[str | Path],
    keys: Sequence[str],
    *,
    x: str = "frame",
    defaults: Mapping[str, Any] | None = None,
    ignored: Collection[str] = (),
    scored_at: float = math.inf,
    now: Callable[[], float] = time.time,
) -> tuple[list[Run], Problems]:
    """Read all runs in directories, with what distinguishes their members.

    Args:
        paths: work directories, or directories that hold some at any depth.
        keys: the metrics to keep as curves.
        x: the key of the rows that curves are against.
        defaults: of config keys by dotted name, for runs that are older than a key.
        ignored: config keys whose values make no variant of an agent.
        scored_at: frames at which members are compared; the ends of their runs by default.
        now: returns the time in seconds since 1970.

    Returns:
        The runs, and a message for everything that could not be read.

    Raises:
        UsageError: a path does not exist, or is not a directory.
    """
    paths = list(paths)
    if not all(map(os.fspath, paths)):
        raise UsageError("a path is empty; give work directories of runs, or folders of them")
    paths = [Path(path).expanduser() for path in paths]
    for path in paths:
        if not os.path.isdir(path):
            what = "is not a directory" if os.path.exists(path) else "does not exist"
            raise UsageError(f"{path} {what}; give work directories of runs, or folders of them")
    problems: Problems = []
    found: dict[Path, Path] = {}  # by resolved path, because folders may overlap
    for path in paths:
        inside = list(find_runs(path, problems))
        if not inside:
            problems.append(f"{path}: no run in it, that is no {CONFIG} or {METRICS}")
        found |= {directory.resolve(): directory for directory in inside}
    names = _names(list(found))
    with _no_collection():
        runs = [
            _read_run(path, name, keys, x, defaults or {}, problems, now)
            for path, name in zip(found.values(), names, strict=True)
        ]
    for member in (member for run in runs for member in run.members):
        member.scored_at = scored_at
    _distinguish(runs, ignored)
    problems += _repetitions(runs)
    return runs, problems


def find_runs(path: Path, problems: Problems) -> Iterator[Path]:
    """Yield the work directories in a directory, which may be one itself, in order."""

    def unreadable(error: OSError) -> None:
        problems.append(f"{error.filename}: {error.strerror}")

    seen = set()
    for folder, folders, files in os.walk(path, followlinks=True, onerror=unreadable):
        here = os.path.realpath(folder)
        if here in seen or CONFIG in files or METRICS in files:
            folders.clear()  # a run holds no others, and links may form circles
        if here not in seen and (CONFIG in files or METRICS in files):
            yield Path(folder)
        seen.add(here)
        folders[:] = sorted(set(folders) - NOT_RUNS)


def by_variant(runs: Iterable[Run]) -> dict[str, dict[str, list[Member]]]:
    """Return all members by task, then by variant; the base variant comes first."""
    groups: dict[str, dict[str, list[Member]]] = {}
    members = [member for run in runs for member in run.members]
    for member in sorted(members, key=lambda member: bool(member.setting)):
        groups.setdefault(member.task, {}).setdefault(member.label, []).append(member)
    return dict(sorted(groups.items()))


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Pause the cycle collector, which would scan the points of all runs read so far repeatedly."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read_run(
    path: Path,
    name: str,
    keys: Sequence[str],
    x: str,
    defaults: Mapping[str, Any],
    problems: Problems,
    now: Callable[[], float],
) -> Run:
    config = dict(_flatten(_read_json(path / CONFIG, problems) or {}))
    if unknown := sorted(config.keys() - defaults.keys()) if defaults else []:
        problems.append(f"{path / CONFIG}: written by another version; unknown: {unknown}")
    run = Run(path, name, {k: _plain(v) for k, v in defaults.items()} | config if config else {})
    run.members = _read_members(run, keys, x, problems)
    with contextlib.suppress(OSError):
        run.resumes = (path / RESUMES).read_bytes().count(b"\n")
    summary = _read_json(path / SUMMARY, problems, optional=True)
    if summary and summary.get("finished"):
        run.state = "finished"
    elif now() - _last_write(path) < max(SILENCE, 3 * _log_seconds(run)):
        run.state = "running"
    return run


def _read_members(run: Run, keys: Sequence[str], x: str, problems: Problems) -> list[Member]:
    path = run.path / METRICS
    points: dict[int, dict[str, dict]] = {}  # values of `keys` by member, key and x
    members: dict[int, Member] = {}
    bad: Problems = []
    try:
        for row in iter_rows(path, on_bad=bad.append, on_torn=problems.append):
            if not all(_is_count(row.get(key)) for key in ROW_KEYS):
                names = ", ".join(ROW_KEYS)
                bad.append(f"{path}: a row without whole numbers for {names}: {str(row)[:80]}")
                continue
            number = row["member"]
            if number not in members:
                setting = {k.removeprefix(HYPER): v for k, v in row.items() if k.startswith(HYPER)}
                members[number] = Member(run, number, row["seed"], setting)
            members[number].latest |= row
            add_points(points.setdefault(number, {}), row, keys, x)
        if not members and not bad:
            problems.append(f"{path}: no rows yet")
    except OSError as error:
        problems.append(f"{path}: {error.strerror}")
    if bad:  # a damaged file may have thousands
        others = f" (and {len(bad) - 1} more such lines)" if len(bad) > 1 else ""
        problems.append(f"{bad[0]}; left out{others}")
    for number, values in points.items():
        members[number].curves = {key: make_curve(values[key]) for key in values}
    for number, errors in newest_errors(run.path / "videos", problems.append).items():
        if number in members:
            members[number].errors = errors
    return [members[number] for number in sorted(members)]


def _read_json(path: Path, problems: Problems, *, optional: bool = False) -> dict[str, Any] | None:
    try:
        content = parse_json(path.read_bytes())
    except OSError as error:
        if optional and isinstance(error, FileNotFoundError):
            return None
        problems.append(f"{path}: {error.strerror}")
        return None
    except ValueError as error:
        problems.append(f"{path}: not JSON ({error})")
        return None
    if not isinstance(content, dict):
        problems.append(f"{path}: not a JSON object")
        return None
    return content


def _distinguish(runs: Sequence[Run], ignored: Collection[str]) -> None:
    """Add to members' settings the config values in which their run differs from most others.

    Runs of one task are compared; of equally common values the one of the first run is the base.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.members and run.config:
            groups.setdefault(run.task, []).append(run)
    for group in groups.values():
        names = dict.fromkeys(itertools.chain.from_iterable(run.config for run in group))
        for name in names:
            if name in ignored or name.startswith(NOT_COMPARED):
                continue
            values = [json.dumps(run.config.get(name)) for run in group]
            base = Counter(values).most_common(1)[0][0]
            for run, value in zip(group, values, strict=True):
                if value != base:
                    for member in run.members:
                        member.setting.setdefault(name, run.config.get(name))


def _repetitions(runs: Sequence[Run]) -> Problems:
    """Return a message for each variant of which several runs have the same seed."""
    holders: dict[tuple[str, str, int], list[Path]] = {}
    for member in (member for run in runs for member in run.members):
        holders.setdefault((member.task, member.label, member.seed), []).append(member.run.path)
    repeated: dict[tuple[str, str], list[Path]] = {}
    for (task, label, _), paths in holders.items():
        if len(paths) > 1:
            repeated.setdefault((task, label), paths)
    return [
        f"{paths[1]}: has the same seed of {task}, {label}, as {paths[0]}; all {len(paths)} such "
        "runs are counted"
        for (task, label), paths in repeated.items()
    ]


def _last_write(path: Path) -> float:
    times = [0.0]
    for name in (METRICS, LOCK):
        with contextlib.suppress(OSError):
            times.append((path / name).stat().st_mtime)
    return max(times)


def _log_seconds(run: Run) -> float:
    """Return the seconds that pass between log lines; 0 if they are not known."""
    rates = [m.latest.get("frames_per_s") for m in run.members]
    every, repeat = run.config.get("log_every"), run.config.get("env.action_repeat")
    if not rates or not all(is_number(v) and v > 0 for v in (rates[0], every, repeat)):
        return 0.0
    return every * repeat / rates[0]


def _names(paths: Sequence[Path]) -> list[str]:
    """Return short names: the paths below the folder that all runs share."""
    if len(paths) < 2:
        return [_printable(path.name) for path in paths]
    common = os.path.commonpath(paths)
    return [_printable(os.path.relpath(path, common)) for path in paths]


def _flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _printable(text: str) -> str:
    """Return a text whose control characters and bytes that are not UTF-8 are escaped."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _plain(value: Any) -> Any:
    """Return a default as JSON has it."""
    return list(value) if isinstance(value, tuple) else value
