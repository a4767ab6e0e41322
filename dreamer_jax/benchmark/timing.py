"""Times of compiled functions, and the memory that they take."""

import math
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax

AT_LEAST = 0.2  # seconds that are timed at once


def time_calls(
    call: Callable[[], Any],
    *,
    repeats: int,
    at_least: float = AT_LEAST,
    between: Callable[[], Any] = lambda: None,
) -> list[float]:
    """Seconds per call, `repeats` times, each until the device has finished.

    A call that is shorter than `at_least` seconds is made as often as takes that long before the
    device is waited for, as training does not wait for it either. `between` is called in front of
    each repetition, and not timed.
    """
    seconds(call, 1)  # the first call may compile and allocate
    count = max(1, math.ceil(at_least / seconds(call, 1)))
    times = []
    for _ in range(repeats):
        between()
        times.append(seconds(call, count) / count)
    return times


def seconds(call: Callable[[], Any], count: int = 1) -> float:
    """Seconds of `count` calls, until the device has finished."""
    start = time.perf_counter()
    for _ in range(count):
        result = call()
    jax.block_until_ready(result)
    return time.perf_counter() - start


def milliseconds(times: list[float]) -> dict[str, float]:
    """`ms_per_update` (median), `ms_min` and `ms_max`."""
    return {
        "ms_per_update": 1e3 * statistics.median(times),
        "ms_min": 1e3 * min(times),
        "ms_max": 1e3 * max(times),
    }


def program_bytes(compiled: jax.stages.Compiled) -> int:
    """What a compiled program needs: arguments, outputs that take none of their place, temporaries.

    Donated arguments are not counted again as outputs.
    """
    plan = compiled.memory_analysis()
    outputs = plan.output_size_in_bytes - plan.alias_size_in_bytes
    return plan.argument_size_in_bytes + outputs + plan.temp_size_in_bytes


def device_peak() -> int | None:
    """Most bytes that this process ever had on the default device; None where JAX cannot say."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def memory_limit() -> int:
    """Bytes of the default device that JAX may use; where it cannot say, the host's memory."""
    stats = jax.devices()[0].memory_stats() or {}
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return stats.get("bytes_limit", host)
