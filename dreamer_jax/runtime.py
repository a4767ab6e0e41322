"""Settings of the whole process, made by the command line before JAX computes."""

import ctypes
import os
from pathlib import Path

import jax

# glibc's names of options of mallopt(3).
_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8


def cache_compilations() -> None:
    """Keep compiled programs between runs, unless JAX is told where already."""
    if jax.config.jax_compilation_cache_dir is None:
        root = os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(Path(root) / "dreamer_jax"))


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
