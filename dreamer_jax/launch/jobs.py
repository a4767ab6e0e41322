"""The jobs of a sweep, as a config file adds them."""

import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from dreamer_jax import config as config_lib
from dreamer_jax.configs import load_module
from dreamer_jax.errors import UsageError, suggest
from dreamer_jax.run.workdir import WorkDir
from dreamer_jax.schema import KEYS

MAX_NAME = 150  # characters; file systems allow 255 bytes


@dataclass(frozen=True)
class Job:
    """One training run of a sweep."""

    name: str  # of its work directory
    config: ConfigDict
    error: str  # why the config is not valid, or ''
    workdir: Path
    arguments: tuple[str, ...]  # of `dreamer-jax`

    @property
    def work(self) -> WorkDir:
        """Its work directory, with the files in it."""
        return WorkDir(self.workdir)

    @property
    def output(self) -> Path:
        """The file for what its processes print, beside the work directory."""
        return self.workdir.with_name(f"{self.name}.log")

    @property
    def command(self) -> str:
        """The command that trains it, for a shell."""
        return shlex.join(["dreamer-jax", *self.arguments])


def make_jobs(given: str, base: ConfigDict, flags: Sequence[str], workdir: str | Path) -> list[Job]:
    """Return the jobs that the sweep of a config file adds, in order.

    Args:
        given: the config as the user names it.
        base: this config, with the user's overrides.
        flags: these overrides, as flags.
        workdir: directory of the sweep; each job has a work directory in it.

    Raises:
        UsageError: the file defines no sweep, or its jobs have unknown keys or the same name.
    """
    module, arg = load_module(given)
    if not hasattr(module, "sweep"):
        raise UsageError(
            f"the config {given} defines no function sweep(add, arg), which calls "
            "add(**overrides) for each job"
        )
    path, colon, rest = given.partition(":")
    name = f"{Path(path).absolute()}{colon}{rest}" if path.endswith(".py") else given
    root = WorkDir(workdir).path
    jobs: dict[str, Job] = {}

    def add(**overrides: Any) -> None:
        job = _make_job(name, base, flags, root, dict(config_lib.flatten(overrides)))
        if job.name in jobs:
            raise UsageError(f"the sweep of {given} adds the job {job.name!r} twice")
        jobs[job.name] = job

    module.sweep(add, arg or "")
    if not jobs:
        raise UsageError(f"the sweep of {given} adds no job")
    return list(jobs.values())


def choose(jobs: Sequence[Job], chosen: Sequence[str]) -> list[Job]:
    """Return the jobs with these names or numbers, counted from 0; all jobs if there are none.

    Args:
        chosen: the parts between the commas of `--jobs`. Names may themselves contain commas.
    """
    by_name = {job.name: job for job in jobs}
    by_name |= {str(number): job for number, job in enumerate(jobs)}
    found, rest = [], list(chosen)
    while rest:
        joined = (",".join(rest[:count]) for count in range(len(rest), 0, -1))
        name = next((name for name in joined if name in by_name), None)
        if name is None:
            raise UsageError(
                f"--jobs has {rest[0]!r}; allowed: numbers from 0 to {len(jobs) - 1}, or names of "
                f"jobs.{suggest(','.join(rest), by_name)}"
            )
        found.append(by_name[name])
        rest = rest[1 + name.count(",") :]
    return list({job.name: job for job in found}.values()) or list(jobs)


def _make_job(
    given: str, base: ConfigDict, flags: Sequence[str], root: Path, overrides: Mapping[str, Any]
) -> Job:
    config = base.copy_and_resolve_references()
    unknown = [key for key in overrides if key not in KEYS]
    if unknown:
        errors = (f"config.{key} does not exist.{suggest(key, KEYS)}" for key in unknown)
        raise UsageError("a job of the sweep overrides unknown keys:\n" + "\n".join(errors))
    values = {}
    for key in sorted(overrides):  # a name must not depend on the order
        *groups, leaf = key.split(".")
        node = config
        for group in groups:
            node = node[group]
        try:
            node[leaf] = overrides[key]  # makes a float of a whole number, where there is one
        except TypeError:
            with node.ignore_type():
                node[leaf] = overrides[key]  # the validation says what is wrong with it
        value = node[leaf]
        values[key] = repr(value.to_dict()) if isinstance(value, ConfigDict) else value
    try:
        config_lib.validate(config)
        error = ""
    except UsageError as mistake:
        error = str(mistake)
    name = job_name(values)
    own = [f"--config.{key}={value}" for key, value in values.items()]
    arguments = ["train", f"--config={given}", *flags, *own, f"--workdir={root / name}"]
    return Job(name, config, error, root / name, tuple(arguments))


def job_name(overrides: Mapping[str, Any]) -> str:
    """Return the name of the job with these overrides, which suits file systems and shells."""
    text = ",".join(f"{key}={_format(value)}" for key, value in overrides.items()) or "base"
    name = re.sub(r"[^A-Za-z0-9_.,=+-]+", "_", text)
    if len(name) <= MAX_NAME:
        return name
    return f"{name[: MAX_NAME - 9]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _format(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
