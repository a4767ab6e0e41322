"""The update of all members: the time and memory of its program, and how many members fit."""

import math
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from dreamer_jax.agent import agent as agent_lib
from dreamer_jax.agent.agent import Agent
from dreamer_jax.agent.build import make_agent
from dreamer_jax.benchmark.device import (
    matmul_rate,
    memory_limit,
    milliseconds,
    peak_bytes,
    program_bytes,
    published_peak,
    time_calls,
)
from dreamer_jax.benchmark.flops import count_flops
from dreamer_jax.benchmark.hlo import count_program
from dreamer_jax.benchmark.topology import OPTIONS, Target
from dreamer_jax.envs.vector import FaultLimit
from dreamer_jax.replay.prefetch import to_batch
from dreamer_jax.replay.replay import Replay
from dreamer_jax.run.driver import Driver, replay_spec
from dreamer_jax.run.setup import RunSetup
from dreamer_jax.seeding import ENV_STREAM
from dreamer_jax.types import Batch, TrainState

STREAM_LENGTHS = 4  # recorded steps per environment, in sequence lengths

# Entries of `measure_update`. All but `flops_per_update` and `error` are None if memory ran out.
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
# Those of `plan_update`, with the same exceptions.
PLAN_KEYS = (
    "compile_s",
    "temp_bytes",
    "program_bytes",
    "flops_per_update",
    "compiled_flops",
    "moved_bytes",
    "launches",
    "fusions",
    "custom_calls",
    "collectives",
    "loops",
    "flops_ms",
    "bytes_ms",
    "launches_ms",
    "error",
)


def measure_update(setup: RunSetup, *, repeats: int, synthetic: bool) -> dict[str, Any]:
    """Compile the train step of all members, and time it on a replayed batch.

    Args:
        repeats: number of timed repetitions, at least 1.
        synthetic: see `make_batch`.

    Returns:
        Values of `KEYS`; `error` is None, or says that the device ran out of memory.
    """
    config, members = setup.config, len(setup.seeds)
    flops = count_flops(partial(agent_lib.train_step, counted_agent(setup)), *member_shapes(setup))
    row = dict.fromkeys(KEYS) | {"flops_per_update": members * flops}
    try:
        row |= _measure(setup, repeats, synthetic)
    except jax.errors.JaxRuntimeError as error:
        return row | {"error": _out_of_memory(error)}
    rate = 1e3 / row["ms_per_update"]
    imagined = config.batch * config.length * config.horizon
    return row | {
        "updates_per_s": rate,
        "member_updates_per_s": members * rate,
        "imagined_states_per_s": members * imagined * rate,
        "flops_per_s": row["flops_per_update"] * rate,
    }


def compile_update(
    setup: RunSetup, options: Mapping[str, Any] | None = None
) -> tuple[jax.stages.Compiled, dict[str, float]]:
    """Compile the train step from shapes alone, for devices that may be absent.

    Args:
        options: of the compiler, in addition to the backend's.

    Returns:
        The program, and the seconds that this took: `lower_s` to trace and lower the function, and
        `compile_s` in XLA.
    """
    shapes = placed_shapes(setup)
    start = time.perf_counter()
    lowered = setup.fns.train_step.lower(*shapes)
    middle = time.perf_counter()
    compiled = lowered.compile(compiler_options=options and dict(options))
    return compiled, {"lower_s": middle - start, "compile_s": time.perf_counter() - middle}


def _measure(setup: RunSetup, repeats: int, synthetic: bool) -> dict[str, Any]:
    before = peak_bytes()
    compiled, row = compile_update(setup)
    update = repeat_update(setup, compiled, make_batch(setup, synthetic=synthetic))
    peaks: list[int | None] = []
    rates: list[float] = []

    def between():
        peaks.append(peak_bytes())
        # Interleaved, because the speed of a shared machine drifts within a minute.
        rates.append(matmul_rate(repeats=1))

    row |= milliseconds(time_calls(update, repeats=repeats, between=between))
    row["matmul_flops_per_s"] = statistics.median(rates)
    # The peak of a process only grows, so it belongs to this program only if it grew.
    peak = peaks[0]
    if peak is not None and peak > before:
        return row | {"peak_bytes": peak, "peak_bytes_from": "device"}
    return row | {"peak_bytes": program_bytes(compiled), "peak_bytes_from": "compiled"}


def repeat_update(
    setup: RunSetup, compiled: jax.stages.Compiled, batch: Batch
) -> Callable[[], tuple[TrainState, Any]]:
    """Return a function that trains all members on a batch, each time from where it left them."""
    state = setup.init_state()

    def update() -> tuple[TrainState, Any]:
        nonlocal state
        state, metrics = compiled(state, batch)
        return state, metrics

    return update


def plan_members(
    build: Callable[[int], RunSetup], *, limit: int | None = None, options: Any = None
) -> dict[str, Any]:
    """Estimate how many members fit, from compiled programs of one member and of two.

    Their memory is extrapolated linearly. Besides the memory of its program, an update needs that
    of the next batch, which is copied meanwhile.

    Args:
        build: builds the setup for a number of members.
        limit: available bytes; those of the default device by default.
        options: of the compiler, in addition to the backend's.

    Returns:
        `temp_bytes` of one member's program, `bytes_one` of one member, `bytes_per_member` of each
        additional one, `bytes_limit` and `members_that_fit`.
    """
    limit = memory_limit() if limit is None else limit
    setups = [build(members) for members in (1, 2)]
    programs = [compile_update(setup, options)[0] for setup in setups]
    needed = [program_bytes(p) + _batch_bytes(s) for p, s in zip(programs, setups, strict=True)]
    additional = needed[1] - needed[0]
    return {
        "temp_bytes": programs[0].memory_analysis().temp_size_in_bytes,
        "bytes_one": needed[0],
        "bytes_per_member": additional,
        "bytes_limit": limit,
        "members_that_fit": members_that_fit(needed[0], additional, limit),
    }


LAUNCH_SECONDS = 2.5e-6  # to start a kernel on a GPU, in the middle of what is published


def plan_update(setup: RunSetup, target: Target) -> dict[str, Any]:
    """Compile the update for absent devices, and count what its program does on one of them.

    Returns:
        `compile_s`, `temp_bytes` and `program_bytes`; `flops_per_update`, which must be computed,
        and `compiled_flops`, which the program computes, both of all members; `moved_bytes`, as if
        nothing stayed in a cache, and `launches` of one device, of which `fusions`, `custom_calls`
        and `collectives`; `loops` with name, steps and launches in a step; and the milliseconds
        that the device needs at least for each: `flops_ms`, `bytes_ms`, `launches_ms`. `error` is
        None, or says that the compiler found no room for the program.
    """
    members, devices = len(setup.seeds), len(setup.placement.devices)
    counted = count_flops(
        partial(agent_lib.train_step, counted_agent(setup)), *member_shapes(setup)
    )
    row = dict.fromkeys(PLAN_KEYS) | {"flops_per_update": members * counted}
    try:
        compiled, seconds = compile_update(setup, OPTIONS.get(target.platform))
    except jax.errors.JaxRuntimeError as error:
        return row | {"error": _out_of_memory(error)}
    counts = count_program(compiled.as_text())
    peak = published_peak(target.kind, setup.config.compute_dtype)
    launches = sum(counts.launches.values())
    return row | {
        "compile_s": seconds["compile_s"],
        "temp_bytes": compiled.memory_analysis().temp_size_in_bytes,
        "program_bytes": program_bytes(compiled),
        "compiled_flops": devices * counts.flops,
        "moved_bytes": counts.bytes,
        "launches": launches,
        "fusions": counts.launches["fusion"],
        "custom_calls": counts.launches["custom-call"],
        "collectives": counts.launches["collective"],
        "loops": counts.loops,
        "flops_ms": peak and 1e3 * counts.flops / peak,
        "bytes_ms": 1e3 * counts.bytes / target.bandwidth,
        "launches_ms": 1e3 * LAUNCH_SECONDS * launches if target.platform == "cuda" else None,
    }


def _out_of_memory(error: jax.errors.JaxRuntimeError) -> str:
    """Return the error of a row that needs too much memory; raise any other error again."""
    if "RESOURCE_EXHAUSTED" not in str(error):
        raise error
    return "out of memory"


def members_that_fit(one: int, additional: int, limit: int) -> int:
    """Return the largest M with one + (M - 1) * additional <= limit, or 0; all in bytes."""
    return 0 if one > limit else 1 + (limit - one) // max(1, additional)


def _batch_bytes(setup: RunSetup) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(batch_shapes(setup)))


def counted_agent(setup: RunSetup) -> Agent:
    """Return the agent with XLA's convolutions, which `count_flops` understands."""
    config = setup.config.copy_and_resolve_references()
    config.conv = "lax"
    return make_agent(config, setup.agent.obs_shapes, setup.action, setup.agent.backend)


def member_shapes(setup: RunSetup) -> tuple[TrainState, Batch]:
    """Return the shapes of one member's state and batch."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype),
        (jax.eval_shape(setup.init_state), batch_shapes(setup)),
    )


def batch_shapes(setup: RunSetup) -> Batch:
    """Return the shapes of a batch [M, B, L, ...], without allocating it."""
    lead = (len(setup.seeds), setup.config.batch, setup.config.length)
    spec = replay_spec(setup.agent.obs_shapes, setup.action)
    return to_batch({k: jax.ShapeDtypeStruct((*lead, *s), dtype) for k, (s, dtype) in spec.items()})


def placed_shapes(setup: RunSetup) -> tuple[TrainState, Batch]:
    """Return the shapes of all members' state and batch, with their placement."""

    def place(tree: Any, sharding: jax.sharding.Sharding) -> Any:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree
        )

    batch = place(batch_shapes(setup), setup.placement.by_sequence)
    return setup.saved_shapes()["state"], batch


def make_batch(setup: RunSetup, *, synthetic: bool) -> Batch:
    """Draw a batch from a replay of random actions, and put it on the device.

    Args:
        synthetic: record random numbers of the right shapes, without any environment.

    Raises:
        TooManyFaults: an environment failed.
    """
    config, steps = setup.config, STREAM_LENGTHS * setup.config.length
    replay = Replay(
        spec=replay_spec(setup.agent.obs_shapes, setup.action),
        seeds=setup.seeds,
        num_envs=config.env.num_envs,
        capacity=2 * steps * config.env.num_envs,
        slack=2 * steps,
        batch=config.batch,
        length=config.length,
        sampling="time",  # the first episode may be longer than the recording
        directory=None,
    )
    record = _record_random_numbers if synthetic else _record_random_actions
    record(setup, replay, steps)
    batch = jax.device_put(to_batch(replay.gather(replay.draw())))
    replay.close()
    return batch


def _record_random_actions(setup: RunSetup, replay: Replay, steps: int) -> None:
    env = setup.config.env
    vector = setup.make_vector(
        ENV_STREAM, env.num_envs, FaultLimit(0, lambda row, text: None), workers=env.workers
    )
    driver = Driver(vector, replay, setup.seeds, setup.obs_keys)
    try:
        for step in range(steps):
            driver.reset_finished()
            driver.step(driver.random_actions(step))
    finally:
        vector.close()


def _record_random_numbers(setup: RunSetup, replay: Replay, steps: int) -> None:
    """Record one episode in each stream."""
    rng = np.random.default_rng(0)
    shape = (len(setup.seeds), setup.config.env.num_envs)
    spec = replay_spec(setup.agent.obs_shapes, setup.action)
    for step in range(steps):
        record = {key: _random(rng, (*shape, *s), dtype) for key, (s, dtype) in spec.items()}
        if setup.action.discrete:
            record["action"] = setup.action.random(rng, math.prod(shape)).reshape(
                *shape, *setup.action.shape
            )
        flags = ("is_first", "is_last", "is_terminal")
        record |= {flag: np.full(shape, flag == "is_first" and step == 0) for flag in flags}
        replay.add(record, np.ones(shape, bool))


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if np.issubdtype(dtype, np.integer):
        return rng.integers(np.iinfo(dtype).max, size=shape, dtype=dtype, endpoint=True)
    return rng.uniform(-1, 1, shape).astype(dtype)
