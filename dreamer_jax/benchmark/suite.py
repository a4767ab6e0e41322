"""Rows of results, one for each combination of members, convolutions and dtypes."""

import datetime
import gc
import platform
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import jax
import jaxlib
from ml_collections import ConfigDict

from dreamer_jax import __version__
from dreamer_jax import config as config_lib
from dreamer_jax.agent.placement import place
from dreamer_jax.benchmark.device import published_peak
from dreamer_jax.benchmark.loop import measure_loop
from dreamer_jax.benchmark.parts import measure_parts
from dreamer_jax.benchmark.topology import absent_devices, find_target
from dreamer_jax.benchmark.update import measure_update, plan_members, plan_update
from dreamer_jax.config import sweep
from dreamer_jax.errors import UsageError
from dreamer_jax.run.setup import MakeEnv, RunSetup, build
from dreamer_jax.runtime import count_cores

Row = dict[str, Any]


def variants(
    config: ConfigDict,
    *,
    members: Sequence[int],
    convs: Sequence[str] = (),
    dtypes: Sequence[str] = (),
    batch: int | None = None,
    length: int | None = None,
) -> list[ConfigDict]:
    """Return a config for every combination; an empty list or None keeps the config's own value.

    Args:
        members: numbers of members.
        convs, dtypes: values of `config.conv` and `config.compute_dtype`.
        batch, length: B and L.

    Raises:
        UsageError: a value is not allowed.
    """
    if not members or min(members) < 1:
        raise UsageError(f"members are {list(members)}; allowed: whole numbers of at least 1")
    convs, dtypes = convs or [config.conv], dtypes or [config.compute_dtype]
    sizes = {
        "batch": config.batch if batch is None else batch,
        "length": config.length if length is None else length,
    }
    configs = []
    for conv, dtype, count in product(convs, dtypes, members):
        variant = sweep.with_seeds(config, range(count))
        variant.update(sizes | {"conv": conv, "compute_dtype": dtype})
        config_lib.validate(variant)
        configs.append(variant)
    return configs


def benchmark(
    configs: Sequence[ConfigDict],
    *,
    name: str,
    repeats: int = 5,
    updates: int = 30,
    synthetic: bool = False,
    parts: bool = False,
    loop: bool = False,
    make_env: MakeEnv | None = None,
) -> Iterator[Row]:
    """Measure the update of each config, one after the other.

    Args:
        name: name of the config, for the rows.
        repeats: number of timed repetitions, at least 1.
        updates: number of timed updates of the training run, at least 1.
        synthetic: use batches of random numbers instead of the environment's.
        parts: also time the parts of the update.
        loop: also time a training run.
        make_env: `seed -> gymnasium.Env`, used instead of `config.task`.

    Yields:
        A JSON-serialisable row for each config, described in docs/performance.md. `parts` is a
        list of rows or None, and `loop` a dict or None.

    Raises:
        UsageError: `repeats` or `updates` is less than 1.
    """
    for what, value in (("repeats", repeats), ("updates", updates)):
        if value < 1:
            raise UsageError(f"{what} is {value}; allowed: at least 1")
    for config in configs:
        setup = build(config, make_env)
        row = describe(setup, name) | measure_update(setup, repeats=repeats, synthetic=synthetic)
        published = published_peak(jax.devices()[0].device_kind, config.compute_dtype)
        peak = published or row["matmul_flops_per_s"]
        row |= {"peak_flops_per_s": peak, "peak_from": "published" if published else "matmul"}
        row["peak_fraction"] = row["flops_per_s"] and row["flops_per_s"] / peak
        row["parts"] = row["loop"] = None
        if parts and row["error"] is None:
            row["parts"] = [
                part | {"peak_fraction": part["flops_per_s"] / peak}
                for part in measure_parts(setup, repeats=repeats, synthetic=synthetic)
            ]
        if loop and row["error"] is None:
            row["loop"] = measure_loop(config, updates=updates, make_env=make_env)
        gc.collect()  # or reference cycles would keep arrays on the device during the next row
        yield row


def plan(
    configs: Sequence[ConfigDict], *, name: str, make_env: MakeEnv | None = None
) -> Iterator[Row]:
    """Estimate how many members of each config fit on one device, without running anything.

    Args:
        configs: their numbers of members and devices are ignored.
        name: name of the config, for the rows.
        make_env: `seed -> gymnasium.Env`, used instead of `config.task`.
    """
    for config in configs:

        def build_members(members: int, config: ConfigDict = config) -> RunSetup:
            variant = sweep.with_seeds(config, range(members))
            variant.devices = 1
            return build(variant, make_env)

        row = describe(build_members(1), name) | plan_members(build_members)
        del row["members"]
        yield row


def plan_absent(
    configs: Sequence[ConfigDict], *, name: str, topology: str, make_env: MakeEnv | None = None
) -> Iterator[Row]:
    """Compile the update of each config for devices that are absent, and count what it does.

    Args:
        name: name of the config, for the rows.
        topology: see `topology.find_target`; without a number of chips, one of them is used.
        make_env: `seed -> gymnasium.Env`, used instead of `config.task`.

    Raises:
        UsageError: the topology is unknown, its compiler is not installed, or the members do not
            divide over its devices.
    """
    target, chips = find_target(topology)
    devices = absent_devices(target, chips)
    devices = devices if ":" in topology else devices[:1]
    for config in configs:
        placement = place(len(sweep.member_seeds(config)), config.batch, config.devices, devices)
        setup = build(config, make_env, placement)
        yield describe(setup, name) | plan_update(setup, target)


def describe(setup: RunSetup, name: str) -> Row:
    """Return the subject of a measurement, and its device, versions and date."""
    config, backend = setup.config, setup.agent.backend
    return {
        "config": name,
        "task": config.task,
        "device": setup.placement.devices[0].device_kind,
        "devices": len(setup.placement.devices),
        "backend": backend.platform,
        "cpus": count_cores(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "dreamer_jax": __version__,
        "members": len(setup.seeds),
        "batch": config.batch,
        "length": config.length,
        "horizon": config.horizon,
        "conv": backend.convolutions if config.conv == "auto" else config.conv,
        "compute_dtype": config.compute_dtype,
    }
