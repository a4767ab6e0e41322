"""Measures a training loop from outside: what the device did when, and how long host calls took."""

import functools
import queue
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax


class Interval(NamedTuple):
    """A computation on the device; seconds of one clock."""

    name: str
    dispatched: float
    begun: float  # dispatched, and the computation before it finished
    finished: float


class DeviceClock:
    """Finds out when computations on an asynchronous device run, without making anyone wait.

    A call of a compiled function returns before the device has computed. A thread waits for the
    results of every watched call in the order of the calls, in which the device makes them, and
    notes when each was ready.

        host     call 1   call 2                      call 3
        device   [  1  ............][  2  ........]   [  3  ....]

    A computation that stands behind another begins when that is finished, others when they are
    called. Their intervals never overlap. What a call waits for beside computations, such as the
    copy of its batch, counts as its own time.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter):
        self._clock = clock
        self._calls: queue.SimpleQueue = queue.SimpleQueue()
        self.intervals: list[Interval] = []
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._watch, name="device-clock", daemon=True)
        self._thread.start()

    def watch(
        self, name: str, fn: Callable[..., tuple], result: Callable[[tuple], Any]
    ) -> Callable[..., tuple]:
        """`fn`, whose calls are noted as `name`.

        Args:
            result: what of its outputs to wait for; not what a later call donates.
        """

        @functools.wraps(fn)
        def call(*args):
            dispatched = self._clock()
            outputs = fn(*args)
            self._calls.put((name, dispatched, result(outputs)))
            return outputs

        return call

    def close(self) -> None:
        """Wait for everything that was called. Raises: what a computation raised."""
        self._calls.put(None)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _watch(self) -> None:
        finished = -float("inf")
        while (entry := self._calls.get()) is not None:
            name, dispatched, outputs = entry
            try:
                jax.block_until_ready(outputs)
            except Exception as error:
                self._error = error
                return
            begun, finished = max(dispatched, finished), self._clock()
            self.intervals.append(Interval(name, dispatched, begun, finished))


@dataclass
class HostClock:
    """Collects when calls began and ended, by name, and what the last of them returned."""

    clock: Callable[[], float] = time.perf_counter
    calls: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: defaultdict(list))
    last: dict[str, Any] = field(default_factory=dict)

    def time(self, name: str, fn: Callable) -> Callable:
        """`fn`, whose calls are noted as `name`."""

        @functools.wraps(fn)
        def call(*args, **kwargs):
            start = self.clock()
            result = fn(*args, **kwargs)
            self.calls[name].append((start, self.clock()))
            self.last[name] = result
            return result

        return call


def summarize(
    intervals: Sequence[Interval],
    calls: Mapping[str, Sequence[tuple[float, float]]],
    *,
    warmup: int,
    envs: int,
) -> dict[str, float]:
    """What the loop did between the end of update number `warmup` and the end of the last one.

    Args:
        intervals: of `update` and `policy`, in order; more than `warmup` >= 1 updates.
        calls: begin and end of `environments` and `gather` calls; envs: N = M*E, per policy step.

    Returns:
        `wall_s`; `learner_share`: time with an update running / wall; `policy_share`;
        `updates_per_s`; `env_steps_per_s` of all environments; medians in ms: `policy_ms` on the
        device, `policy_latency_ms` from call to result, what it waits for included,
        `environments_ms` of a step of all, and `gather_ms` of a batch.

    Raises:
        ValueError: there are not enough updates.
    """
    updates = [entry for entry in intervals if entry.name == "update"]
    if not 1 <= warmup < len(updates):
        raise ValueError(f"{len(updates)} updates are too few for a warm-up of {warmup}")
    start, stop = updates[warmup - 1].finished, updates[-1].finished
    inside = [entry for entry in intervals if start <= entry.begun and entry.finished <= stop]
    policies = [entry for entry in inside if entry.name == "policy"]
    wall = stop - start
    busy = sum(entry.finished - entry.begun for entry in inside if entry.name == "update")
    acting = [entry.finished - entry.begun for entry in policies]
    waits = [entry.finished - entry.dispatched for entry in policies]
    summary = {
        "wall_s": wall,
        "learner_share": busy / wall,
        "policy_share": sum(acting) / wall,
        "updates_per_s": (len(updates) - warmup) / wall,
        "env_steps_per_s": len(policies) * envs / wall,
        "policy_ms": _median_ms(acting),
        "policy_latency_ms": _median_ms(waits),
    }
    for name in ("environments", "gather"):
        times = [end - begin for begin, end in calls.get(name, ()) if start <= begin <= stop]
        summary[f"{name}_ms"] = _median_ms(times)
    return summary


def _median_ms(seconds: Sequence[float]) -> float | None:
    return 1e3 * statistics.median(seconds) if seconds else None
