"""Settings of the whole process, made by the command line before JAX computes."""

import ctypes
import functools
import gc
import os
from pathlib import Path

import jax

# XLA's CPU backend hands multiplications of matrices to YNNPACK, unless no kind of fusion with it
# is allowed, and then to Eigen, which is faster at those of an update (docs/performance.md).
EIGEN = {"xla_cpu_experimental_ynn_fusion_type": ""}
# glibc's names of options of mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def cache_compilations() -> None:
    """Keep compiled programs between runs, unless JAX is told where already.

    Small ones too, which JAX would compile anew each time: there are many before a first update.
    """
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    if jax.config.jax_compilation_cache_dir is None:
        root = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(Path(root) / "dreamer_jax"))


def count_cores() -> int:
    """Cores that this process may compute on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_cores() -> None:
    """Make every core of a CPU a device of JAX's, so that each can have members of its own.

    On one device XLA computes the members' matrix multiplications one after the other, each on all
    cores, and small ones are too short for that. Nothing happens where JAX is told a number
    already.
    """
    told = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if jax.config.jax_num_cpu_devices < 0 and not told:
        jax.config.update("jax_num_cpu_devices", count_cores())


def collect_rarely() -> None:
    """Look for cycles among Python's objects less often.

    Tracing a program makes very many objects that stay, and to look through them every few hundred
    delays the first update.
    """
    gc.set_threshold(100_000)


def keep_memory() -> None:
    """Have memory that was freed used again instead of given back to the system.

    On a CPU, XLA takes the gigabytes of an update's temporaries anew in every update, and a page
    that is touched for the first time costs more than what is computed on it. Without glibc
    nothing happens.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    mallopt(_MMAP_MAX, 0)  # all from the heap,
    mallopt(_TRIM_THRESHOLD, -1)  # whose end is never given back,
    mallopt(_ARENA_MAX, 1)  # and of which there is one for all threads


def compiler_options() -> dict[str, str]:
    """For `jax.jit` on the default backend: none that this version of XLA does not know."""
    return _known() if jax.default_backend() == "cpu" else {}


@functools.cache
def _known() -> dict[str, str]:
    try:
        jax.jit(lambda: 0, compiler_options=EIGEN).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return EIGEN
