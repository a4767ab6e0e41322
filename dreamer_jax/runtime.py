"""Settings of the whole process, and the choices that depend on the backend (`Backend`).

Importing changes nothing: `prepare` makes the settings, at the latest when a run is built. The
backend is chosen where the agent is built and is passed down, so that programs can be compiled for
a device that is absent.
"""

import functools
import gc
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jax._src import xla_bridge  # JAX has no public way to ask whether it has started
from jax.experimental.compilation_cache import compilation_cache

from dreamer_jax.errors import UsageError

log = logging.getLogger(__name__)

# XLA's CPU backend uses YNNPACK for matmuls. Disabling its fusions makes XLA fall back to Eigen,
# which is faster for our updates (docs/performance.md).
EIGEN = {"xla_cpu_experimental_ynn_fusion_type": ""}
DETERMINISTIC = "--xla_gpu_deterministic_ops"


@dataclass(frozen=True)
class Backend:
    """Choices that depend on the kind of device that programs are compiled for."""

    platform: str  # 'cpu', 'gpu' or 'tpu'
    # Map an update over the members with `vmap`, which fills an accelerator, or with `lax.map`, one
    # member at a time. On a CPU `vmap` turns matmuls into batched ones, which XLA multiplies more
    # slowly, and holds all members' temporaries at once.
    map_members_together: bool
    convolutions: str  # formulation for `config.conv = 'auto'`
    slice_bytes: int  # memory that a convolution may unfold at a time (`model.ops.slices`)
    unroll: int  # most steps in one iteration of a loop over time
    compiler_options: Mapping[str, str]  # for `jax.jit` of an update
    # For programs that run once, or once per log line. LLVM optimizes the drawing of all weights in
    # 40 s of CPU time, and at level 0 compiles it in 3; the weights are the same.
    rare_options: Mapping[str, Any]
    # Keep compiled programs with a run, since compiling again may give others. On a CPU it gives
    # the same, and XLA cannot serialize a program that came from JAX's compilation cache.
    keep_programs: bool


def make_backend(target: str | jax.Device | None = None) -> Backend:
    """Return the choices for a device or platform that need not be available.

    Args:
        target: a device, or one of 'cpu', 'gpu', 'cuda', 'rocm' and 'tpu'; None for JAX's default.
    """
    if target is None:
        target = jax.default_backend()
    platform = target if isinstance(target, str) else target.platform
    if platform == "cpu":
        quick = {"xla_backend_optimization_level": 0}
        return Backend("cpu", False, "blocks", 2**28, 1, _known_options(), quick, False)
    platform = "gpu" if platform in ("cuda", "rocm") else platform
    # `vmap` makes grouped convolutions of the members', whose gradients XLA computes on a GPU with
    # the zeros of their dilation: 10 times the products for five members.
    convolutions = "lax" if platform == "tpu" else "matmul"
    return Backend(platform, True, convolutions, 2**29, 25, {}, {}, True)


@functools.cache
def _known_options() -> dict[str, str]:
    """Return `EIGEN` if this version of XLA knows the option, else nothing."""
    try:
        jax.jit(lambda: 0, compiler_options=EIGEN).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return EIGEN


@functools.cache
def prepare() -> None:
    """Tune the process for training: cores, compilation cache, garbage collection.

    The command line, `train`, `evaluate`, `load` and `dry_run` call it. Call it yourself before
    other code uses JAX: once JAX has started, its devices can no longer be set, and a warning says
    so. What you have set already is kept.
    """
    collect_rarely()
    cache_compilations()
    if use_cores():
        return
    # The cache is opened at the first compilation, and stays closed if it had no directory.
    compilation_cache.reset_cache()
    if jax.default_backend() == "cpu":
        log.warning(
            "JAX was started before dreamer_jax was called, and keeps %d of %d CPU cores as "
            "devices, so that training is slower; call dreamer_jax.prepare() before other code "
            "uses JAX",
            jax.local_device_count(),
            count_cores(),
        )


def be_deterministic() -> None:
    """Have XLA use only GPU operations that give the same results every time they run.

    It then also chooses kernels without timing them. Call it before JAX starts.

    Raises:
        UsageError: JAX has started without it.
    """
    flags = os.environ.get("XLA_FLAGS", "")
    if DETERMINISTIC in flags:
        return
    if xla_bridge.backends_are_initialized() and jax.default_backend() == "gpu":
        raise UsageError(
            f"config.deterministic is True, but JAX has started without it; set "
            f"XLA_FLAGS={DETERMINISTIC}=true before"
        )
    os.environ["XLA_FLAGS"] = f"{flags} {DETERMINISTIC}=true".strip()


def cache_compilations() -> None:
    """Keep compiled programs between runs, in a default directory unless JAX has one.

    Small programs are kept too, unless JAX has another limit than its default of a second: many of
    them run before the first update.
    """
    if jax.config.jax_persistent_cache_min_compile_time_secs == 1:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    if jax.config.jax_compilation_cache_dir is None:
        # As the XDG specification says, a relative path is ignored, and so is an empty one.
        root = os.environ.get("XDG_CACHE_HOME", "")
        if not os.path.isabs(root):
            root = os.path.join(os.path.expanduser("~"), ".cache")
        if os.path.isabs(root):  # there may be no home directory
            jax.config.update("jax_compilation_cache_dir", os.path.join(root, "dreamer_jax"))


def count_cores() -> int:
    """Return the number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def use_cores() -> bool:
    """Make every CPU core a JAX device, so that each can train members of its own.

    On a single device XLA spreads each matmul of one member over all cores, and small matmuls are
    too short for that. A number of devices that is already set is kept.

    Returns:
        False if it is too late, because JAX has started.
    """
    is_set = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if jax.config.jax_num_cpu_devices < 0 and not is_set:
        try:
            jax.config.update("jax_num_cpu_devices", count_cores())
        except RuntimeError:
            return False
    return True


def collect_rarely() -> None:
    """Run Python's cycle collector less often, if it is on.

    Tracing a program creates very many objects that stay alive; scanning them every few hundred
    allocations delays the first update.
    """
    if 0 < gc.get_threshold()[0] < 100_000:
        gc.set_threshold(100_000)
