"""Settings of a process that is about to compute."""

from pathlib import Path

import jax

from dreamer_jax.runtime import cache_compilations, collect_rarely, keep_memory, use_cores

# Device files of NVIDIA and AMD GPUs and of TPUs.
ACCELERATORS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/dev/accel0", "/dev/vfio/0")


def prepare_to_compute() -> None:
    """Tune the process for training, before JAX starts its backend."""
    collect_rarely()
    cache_compilations()
    use_cores()
    if expects_cpu(jax.config.jax_platforms):
        keep_memory()


def expects_cpu(platforms: str | None) -> bool:
    """Return whether JAX will compute on the CPU, without starting its backend.

    glibc's settings do not affect threads that exist already, and the backend starts some. On
    accelerators the settings would only slow down the host's threads.

    Args:
        platforms: as in JAX_PLATFORMS; if empty, the device files decide.
    """
    if platforms:
        return platforms.split(",")[0] == "cpu"
    return not any(Path(path).exists() for path in ACCELERATORS)
