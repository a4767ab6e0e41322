"""The time of calls on a device, and its memory and peak rate."""

import math
import os
import re
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dreamer_jax.runtime import make_backend

MIN_SECONDS = 0.2  # of one repetition

# Dense peaks in TFLOP/s, (float32, bfloat16), by a pattern of JAX's device_kind; the first match
# counts. The float32 peak is that of XLA's default precision: TF32 on NVIDIA since Ampere,
# bfloat16 passes on TPU. None: the hardware does not multiply in that type.
# Sources: NVIDIA's data sheets of V100, T4, A100, L4, H100 and H200, without sparsity; the
# GA102 and Ada architecture whitepapers for RTX 3090 and 4090 (accumulation in float32);
# Google's 'System architecture' pages per TPU version. A JAX device is one of the two cores of
# a v2 or v3 chip, and a complete chip since v4.
PEAKS: dict[str, tuple[float, float | None]] = {
    r"V100": (15.7, None),
    r"\bT4\b": (8.1, None),
    r"A100": (156.0, 312.0),
    r"\bL4\b": (60.0, 121.0),
    r"H100 PCIe": (378.0, 756.0),
    r"H100 NVL": (418.0, 835.0),
    r"H100|H200": (494.7, 989.4),
    r"RTX 3090$": (35.6, 71.0),
    r"RTX 4090$": (82.6, 165.2),
    r"TPU v2": (22.5, 22.5),
    r"TPU v3": (61.5, 61.5),
    r"TPU v4$": (275.0, 275.0),
    r"TPU v5 ?lite|TPU v5e": (197.0, 197.0),
    r"TPU v5": (459.0, 459.0),
    r"TPU v6": (918.0, 918.0),
}
MATMUL_SIZES = {"cpu": 2048}  # side of the square matrices in `matmul_rate`, by platform
LARGE_MATMUL = 4096  # on other platforms


def time_calls(
    call: Callable[[], Any],
    *,
    repeats: int,
    min_seconds: float = MIN_SECONDS,
    between: Callable[[], Any] = lambda: None,
) -> list[float]:
    """Return the seconds per call in each of several repetitions, after a warm-up.

    A repetition makes as many calls as take `min_seconds`, at least one, and waits for the device
    only after the last, since training does not wait for each update either.

    Args:
        call: dispatches a computation and returns its results.
        between: called before each repetition, untimed.
    """
    _seconds(call, 1)  # the first call may compile and allocate
    count = max(1, math.ceil(min_seconds / _seconds(call, 1)))
    times = []
    for _ in range(repeats):
        between()
        times.append(_seconds(call, count) / count)
    return times


def _seconds(call: Callable[[], Any], count: int) -> float:
    start = time.perf_counter()
    for _ in range(count):
        result = call()
    jax.block_until_ready(result)
    return time.perf_counter() - start


def milliseconds(times: Sequence[float]) -> dict[str, float]:
    """Return `ms_per_update` (the median), `ms_min` and `ms_max` of times in seconds."""
    return {
        "ms_per_update": 1e3 * statistics.median(times),
        "ms_min": 1e3 * min(times),
        "ms_max": 1e3 * max(times),
    }


def program_bytes(compiled: jax.stages.Compiled) -> int:
    """Return the bytes of a program's arguments, outputs and temporaries.

    Outputs that reuse the memory of donated arguments do not count.
    """
    plan = compiled.memory_analysis()
    outputs = plan.output_size_in_bytes - plan.alias_size_in_bytes
    return plan.argument_size_in_bytes + outputs + plan.temp_size_in_bytes


def peak_bytes() -> int | None:
    """Return the peak memory of this process on the default device, or None if unknown."""
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def memory_limit() -> int:
    """Return the bytes that JAX may use on the default device; those of the host if unknown."""
    stats = jax.devices()[0].memory_stats() or {}
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return stats.get("bytes_limit", host)


def published_peak(device_kind: str, compute_dtype: str) -> float | None:
    """Return a device's peak in FLOP/s from `PEAKS`, or None.

    Args:
        device_kind: the device's name in JAX.
        compute_dtype: 'float32' or 'bfloat16'.
    """
    for pattern, (float32, bfloat16) in PEAKS.items():
        # A slice of a device (MIG) has a share of its peak that the name does not state.
        if re.search(pattern, device_kind) and "MIG" not in device_kind:
            peak = {"float32": float32, "bfloat16": bfloat16}[compute_dtype]
            return None if peak is None else peak * 1e12
    return None


def matmul_rate(size: int | None = None, *, repeats: int = 5) -> float:
    """Return the best FLOP/s of a large float32 matmul, compiled like an update.

    Args:
        size: side of the square matrices; one that suits the platform by default.
    """
    backend = make_backend()
    size = size or MATMUL_SIZES.get(backend.platform, LARGE_MATMUL)
    # Random entries, because devices clock higher on zeros and ones.
    left, right = jax.random.normal(jax.random.key(0), (2, size, size), jnp.float32)
    multiply = jax.jit(jnp.matmul, compiler_options=dict(backend.compiler_options))
    return 2 * size**3 / min(time_calls(lambda: multiply(left, right), repeats=repeats))
