"""One update of all members: how long its program takes to compile and to run, and its memory."""

import statistics
import time
from typing import Any

import jax

from dreamer_jax.benchmark.batches import batch_shapes, make_batch
from dreamer_jax.benchmark.flops import update_flops
from dreamer_jax.benchmark.peaks import matmul_rate
from dreamer_jax.benchmark.timing import device_peak, milliseconds, program_bytes, time_calls
from dreamer_jax.run.setup import RunSetup

# What `measure_update` returns, in order. All None but the counted FLOPs where memory ran out.
KEYS = (
    "lower_s",
    "compile_s",
    "ms_per_update",
    "ms_min",
    "ms_max",
    "updates_per_s",
    "member_updates_per_s",
    "imagined_states_per_s",
    "flops_per_update",
    "flops_per_s",
    "matmul_flops_per_s",
    "peak_bytes",
    "peak_bytes_from",
    "error",
)


def measure_update(parts: RunSetup, *, repeats: int, synthetic: bool) -> dict[str, Any]:
    """Compile the train step of all members and time it on a replayed batch.

    The state of each update is the next one's; the device is waited for.

    Args:
        repeats: at least 1; synthetic: as in `make_batch`.

    Returns:
        `KEYS`. `error` is None, or says that the device's memory ran out.
    """
    agent, config = parts.agent, parts.config
    members = len(parts.seeds)
    flops = update_flops(agent, batch=config.batch, length=config.length).values()
    row = dict.fromkeys(KEYS) | {"flops_per_update": members * sum(f.total for f in flops)}
    try:
        row |= _measure(parts, repeats, synthetic)
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return row | {"error": "out of memory"}
    rate = 1e3 / row["ms_per_update"]
    imagined = config.batch * config.length * config.horizon
    return row | {
        "updates_per_s": rate,
        "member_updates_per_s": members * rate,
        "imagined_states_per_s": members * imagined * rate,
        "flops_per_s": row["flops_per_update"] * rate,
    }


def compile_update(parts: RunSetup) -> tuple[jax.stages.Compiled, dict[str, float]]:
    """The train step's program, from shapes alone, and the seconds that it took to make.

    Returns:
        The program, and `lower_s` (tracing and lowering) and `compile_s` (XLA).
    """
    shapes = jax.eval_shape(parts.init_state), batch_shapes(parts)
    start = time.perf_counter()
    lowered = parts.fns.train_step.lower(*shapes)
    middle = time.perf_counter()
    compiled = lowered.compile()
    return compiled, {"lower_s": middle - start, "compile_s": time.perf_counter() - middle}


def _measure(parts: RunSetup, repeats: int, synthetic: bool) -> dict[str, Any]:
    before = device_peak()
    compiled, times = compile_update(parts)
    batch, state = make_batch(parts, synthetic=synthetic), parts.init_state()

    def update():
        nonlocal state
        state, metrics = compiled(state, batch)
        return state, metrics

    memory: list[int | None] = []
    rates: list[float] = []

    def between():
        memory.append(device_peak())
        # On a machine that others use too, both rates change within a minute: so they take turns.
        rates.append(matmul_rate(repeats=1))

    times |= milliseconds(time_calls(update, repeats=repeats, between=between))
    times["matmul_flops_per_s"] = statistics.median(rates)
    # A process's peak only grows: it is this program's only if it grew.
    peak = memory[0]
    if peak is not None and peak > before:
        return times | {"peak_bytes": peak, "peak_bytes_from": "device"}
    return times | {"peak_bytes": program_bytes(compiled), "peak_bytes_from": "compiled"}
