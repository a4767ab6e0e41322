"""The memory that a run with its replay in memory needs, compared with what there is."""

from pathlib import Path

import jax

from dreamer_jax.errors import UsageError
from dreamer_jax.run.setup import RunSetup, describe_bytes

MEMINFO = Path("/proc/meminfo")


def check_memory(setup: RunSetup) -> None:
    """Raise UsageError if the arrays of a run do not fit the memory of its devices.

    Networks need more for their temporaries while they are updated, which is not counted.
    """
    devices = setup.placement.devices
    free = free_memory(devices[0])
    if free is None:
        return
    replay = setup.replay_bytes()
    shapes = jax.tree.leaves(setup.saved_shapes(with_loop=False))
    networks = sum(x.size * x.dtype.itemsize for x in shapes)
    if devices[0].platform == "cpu":
        replay *= 2  # the copy that is saved is in the same memory
    else:
        free *= len(devices)  # of which each has memory of its own
    if networks + replay <= free:
        return
    capacity = setup.config.replay.capacity
    fits = max(0, int(capacity * (free - networks) / replay))
    raise UsageError(
        f"with config.loop = 'device' a replay of {capacity} steps for each of "
        f"{len(setup.seeds)} members needs {describe_bytes(networks + replay)} of memory, with the "
        f"networks, and {describe_bytes(free)} are free; allowed: config.replay.capacity of at "
        f"most about {fits}, or fewer members"
    )


def check_host_memory(setup: RunSetup) -> None:
    """Raise UsageError if a replay with `config.replay.storage = 'memory'` does not fit."""
    needed, free = setup.replay_bytes(), _free_host_memory()
    if setup.config.replay.storage == "memory" and free is not None and needed > free:
        capacity = setup.config.replay.capacity
        raise UsageError(
            f"with config.replay.storage = 'memory' a replay of {capacity} steps for each of "
            f"{len(setup.seeds)} members needs {describe_bytes(needed)} of memory, and "
            f"{describe_bytes(free)} are free; allowed: config.replay.capacity of at most about "
            f"{int(capacity * free / needed)}, fewer members, or 'disk'"
        )


def free_memory(device: jax.Device) -> int | None:
    """Return the number of bytes that a device has free; None if it does not say."""
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return _free_host_memory() if device.platform == "cpu" else None


def _free_host_memory() -> int | None:
    if not MEMINFO.exists():
        return None
    lines = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
    return int(lines["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in lines else None
