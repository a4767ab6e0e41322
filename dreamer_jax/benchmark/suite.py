"""A benchmark: a row of results for every combination of members, formulation and dtype."""

import datetime
import gc
import platform
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from itertools import product
from typing import Any

import jax
from ml_collections import ConfigDict

from dreamer_jax import config as config_lib
from dreamer_jax.benchmark.loop import measure_loop
from dreamer_jax.benchmark.parts import measure_parts
from dreamer_jax.benchmark.peaks import published_peak
from dreamer_jax.benchmark.plan import plan_members
from dreamer_jax.benchmark.update import measure_update
from dreamer_jax.config import sweep
from dreamer_jax.errors import UsageError
from dreamer_jax.run import setup as run_lib
from dreamer_jax.run.setup import MakeEnv, RunSetup
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
    """The configs to measure, every combination; what is empty or None is the config's own.

    Raises:
        UsageError: a value is not allowed; all are checked before anything is built.
    """
    if not members or min(members) < 1:
        raise UsageError(f"members are {list(members)}; allowed: whole numbers of at least 1")
    changes = {"batch": batch, "length": length}
    changes = {name: value for name, value in changes.items() if value is not None}
    configs = []
    for conv, dtype, count in product(
        convs or [config.conv], dtypes or [config.compute_dtype], members
    ):
        variant = sweep.with_seeds(config, range(count))
        variant.update(changes | {"conv": conv, "compute_dtype": dtype})
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
        name: of the config, for the rows; repeats: timed repetitions; updates: of the loop.
        synthetic: batches of random numbers, in place of the environment's.
        parts: also time the parts of the update; loop: also time the whole training loop.

    Yields:
        Rows that JSON can hold; docs/performance.md says what each entry is. `parts` is a list of
        rows, or None, and `loop` a dict, or None.

    Raises:
        UsageError: `repeats` or `updates` is not at least 1.
    """
    for what, value in (("repeats", repeats), ("updates", updates)):
        if value < 1:
            raise UsageError(f"{what} is {value}; allowed: at least 1")
    for config in configs:
        built = run_lib.build(config, make_env)
        peak = published_peak(jax.devices()[0].device_kind, config.compute_dtype)
        row = describe(built, name) | measure_update(built, repeats=repeats, synthetic=synthetic)
        row |= {
            "peak_flops_per_s": peak or row["matmul_flops_per_s"],
            "peak_from": "published" if peak else "matmul",
        }
        row |= _share(row)
        fits = row["error"] is None
        row["parts"] = row["loop"] = None
        if parts and fits:
            measured = measure_parts(built, repeats=repeats, synthetic=synthetic)
            context = {"peak_flops_per_s": row["peak_flops_per_s"]}
            row["parts"] = [part | _share(part | context) for part in measured]
        if loop and fits:
            row["loop"] = measure_loop(config, updates=updates, make_env=make_env)
            gc.collect()  # a trainer is part of a cycle, which would keep its state on the device
        yield row


def plan(
    configs: Sequence[ConfigDict], *, name: str, make_env: MakeEnv | None = None
) -> Iterator[Row]:
    """How many members of each config fit on one device; compiles, and runs nothing.

    Args:
        configs: their numbers of members and of devices are not looked at.
    """
    for config in configs:

        def build(members: int, config: ConfigDict = config) -> RunSetup:
            variant = sweep.with_seeds(config, range(members))
            variant.devices = 1
            return run_lib.build(variant, make_env)

        row = describe(build(1), name) | plan_members(build)
        del row["members"]
        yield row


def describe(parts: RunSetup, name: str) -> Row:
    """What is measured, on what, with what, and when."""
    config, device = parts.config, jax.devices()[0]
    backend = parts.agent.backend
    conv = backend.convolutions if config.conv == "auto" else config.conv
    return {
        "config": name,
        "task": config.task,
        "device": device.device_kind,
        "backend": backend.platform,
        "cpus": count_cores(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "jaxlib": version("jaxlib"),
        "dreamer_jax": version("dreamer-jax"),
        "members": len(parts.seeds),
        "batch": config.batch,
        "length": config.length,
        "horizon": config.horizon,
        "conv": conv,
        "compute_dtype": config.compute_dtype,
    }


def _share(row: Row) -> Row:
    rate = row["flops_per_s"]
    return {"peak_fraction": rate and rate / row["peak_flops_per_s"]}
