"""How many members fit on this device, from programs that are compiled but not run."""

from collections.abc import Callable
from typing import Any

import jax

from dreamer_jax.benchmark.batches import batch_shapes
from dreamer_jax.benchmark.timing import memory_limit, program_bytes
from dreamer_jax.benchmark.update import compile_update
from dreamer_jax.run.setup import RunSetup


def plan_members(build: Callable[[int], RunSetup], *, limit: int | None = None) -> dict[str, Any]:
    """Compile the update of one member and of two, and go on linearly.

    Beside its program an update needs the next batch, which is copied while it runs.

    Args:
        build: number of members -> their parts; limit: bytes, None for the default device's.

    Returns:
        `temp_bytes` of one member's program, `bytes_one`, `bytes_per_member` of every further
        one, `bytes_limit`, and `members_that_fit`, estimated.
    """
    limit = memory_limit() if limit is None else limit
    programs = {}
    for members in (1, 2):
        parts = build(members)
        compiled, _ = compile_update(parts)
        programs[members] = program_bytes(compiled) + _batch_bytes(parts)
        if members == 1:
            temporaries = compiled.memory_analysis().temp_size_in_bytes
    further = programs[2] - programs[1]
    return {
        "temp_bytes": temporaries,
        "bytes_one": programs[1],
        "bytes_per_member": further,
        "bytes_limit": limit,
        "members_that_fit": members_that_fit(programs[1], further, limit),
    }


def members_that_fit(one: int, further: int, limit: int) -> int:
    """Largest M with one + (M - 1) * further <= limit; 0 if not even one fits.

    Args:
        one: bytes of one member; further: of each one more, at least 1; limit: bytes.
    """
    return 0 if one > limit else 1 + (limit - one) // max(1, further)


def _batch_bytes(parts: RunSetup) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(batch_shapes(parts)))
