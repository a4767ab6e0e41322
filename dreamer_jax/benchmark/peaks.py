"""How fast a device could be: published peaks of known accelerators, else a measured rate."""

import re

import jax
import jax.numpy as jnp

from dreamer_jax.benchmark.timing import time_calls
from dreamer_jax.runtime import make_backend

# Dense peaks in TFLOP/s, (float32, bfloat16), by a pattern of JAX's device_kind; the first that
# matches holds. For float32 it is what XLA's default precision computes with: TF32 on NVIDIA
# from Ampere on, bfloat16 passes on TPU. None: the hardware does not multiply in that type.
# Sources: NVIDIA's data sheets of V100, T4, A100, L4, H100 and H200, without sparsity; the
# GA102 and Ada architecture whitepapers for RTX 3090 and 4090 (accumulation in float32);
# Google's 'System architecture' pages per TPU version. A JAX device is one of the two cores of
# a v2 or v3 chip, and a whole chip from v4 on.
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
SIZES = {"cpu": 2048}  # of the square matrices that are multiplied, by backend
LARGE = 4096  # elsewhere


def published_peak(device_kind: str, compute_dtype: str) -> float | None:
    """FLOP/s of a device by its name; None if it is not in the table.

    Args:
        compute_dtype: 'float32' or 'bfloat16'.
    """
    for pattern, (float32, bfloat16) in PEAKS.items():
        # A slice of a device (MIG) has a share of its peak that the name does not tell.
        if re.search(pattern, device_kind) and "MIG" not in device_kind:
            peak = {"float32": float32, "bfloat16": bfloat16}[compute_dtype]
            return None if peak is None else peak * 1e12
    return None


def matmul_rate(size: int | None = None, *, repeats: int = 5) -> float:
    """FLOP/s of a large float32 matrix multiplication on the default device, best of several.

    Compiled as an update is.
    """
    backend = make_backend()
    size = size or SIZES.get(backend.platform, LARGE)
    # Not zeros or ones: a device clocks higher on them.
    left, right = jax.random.normal(jax.random.key(0), (2, size, size), jnp.float32)
    multiply = jax.jit(jnp.matmul, compiler_options=dict(backend.compiler_options))
    return 2 * size**3 / min(time_calls(lambda: multiply(left, right), repeats=repeats))
