"""Steps many environments at once, in this process or in several."""

import atexit
import functools
import weakref
from collections.abc import Iterable, Mapping, Sequence
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import cloudpickle
import numpy as np

from dreamer_jax.envs.vector.base import Vector
from dreamer_jax.envs.vector.pool import WorkerProcess, exchange, shut_down
from dreamer_jax.envs.vector.results import Fault, Replies
from dreamer_jax.envs.vector.slots import Arrays, EnvFn, EnvSlots
from dreamer_jax.envs.vector.worker import Attachment, build_pickled, num_bytes, views

__all__ = ["LocalVector", "ProcessVector", "Vector", "make_vector"]

BUILD_TIMEOUT = 120.0  # seconds, the least that building environments may take


def make_vector(env_fns: Sequence[EnvFn], workers: int = 0, timeout: float = 60.0) -> Vector:
    """Step environments in this process, or in `workers` others.

    Args:
        env_fns: N functions that build an environment each.
        workers: 0 for this process, else the number of processes, at most N.
        timeout: seconds that one call may take in the workers. In this process an environment
            that hangs cannot be ended, and neither can one that ends its process be survived.

    Raises:
        ValueError: no environments, their spaces differ, or `workers` or `timeout` is out of
            range.
    """
    return ProcessVector(env_fns, workers, timeout) if workers else LocalVector(env_fns)


class LocalVector(Vector):
    """Environments in this process, the fastest where they are cheap.

    An environment that hangs cannot be ended here.

    Args:
        env_fns: N functions that build an environment each.

    Raises:
        ValueError: no environments, or their spaces differ.
    """

    def __init__(self, env_fns: Sequence[EnvFn]) -> None:
        if not env_fns:
            raise ValueError("a vector needs at least one environment")
        self._rows = EnvSlots(len(env_fns))
        try:
            shapes = self._set_up(self._rows.build(env_fns))
        except BaseException:
            self._rows.close()
            raise
        self._arrays = {name: np.zeros(*shape) for name, shape in shapes.items()}
        self._rows.attach(self._arrays)

    def _close(self) -> None:
        self._rows.close()

    def _call(self, command: str, per_row: list[Any] | None = None) -> Replies:
        values, errors = getattr(self._rows, command)(*(() if per_row is None else (per_row,)))
        return Replies(values, errors, [])


class ProcessVector(Vector):
    """Environments in worker processes, which write what they see into shared memory.

    Every worker has a contiguous run of the rows. Processes are spawned, so a script that builds
    one needs the guard `if __name__ == "__main__"`. A worker that died, or did not answer within
    the timeout, is killed, and all its rows have failed; another takes its place and waits for
    their new environments. An error while the first environments are built is raised here with
    the worker's traceback, as a ValueError if it was one and else as a RuntimeError.

    Args:
        env_fns: N functions that build an environment each, sent by cloudpickle.
        workers: number of processes, 1 to N.
        timeout: seconds that a call may take in all workers together, more than 0; where
            environments are built, at least 120.

    Raises:
        ValueError: no environments, their spaces differ, or `workers` or `timeout` is out of
            range.
    """

    def __init__(self, env_fns: Sequence[EnvFn], workers: int, timeout: float = 60.0) -> None:
        if not 1 <= workers <= len(env_fns):
            raise ValueError(
                f"workers must be from 1 to the {len(env_fns)} environments, not {workers}"
            )
        if not timeout > 0:
            raise ValueError(f"timeout must be more than 0 seconds, not {timeout}")
        self._timeout = timeout
        self._workers: list[WorkerProcess] = []
        self._memory: list[SharedMemory] = []
        self._arrays = {}
        # Holds the parts and not self, so that it runs when self is collected.
        self._finalizer = weakref.finalize(
            self, _shut_down, self._workers, self._memory, self._arrays
        )
        # At the end of the program it must run before the exit function of multiprocessing, which
        # waits for all workers: hence after that was registered, which is when it was imported.
        self._finalizer.atexit = False
        atexit.register(self._finalizer)
        try:
            self._start(env_fns, workers)
        except BaseException:
            self.close()
            raise

    def _close(self) -> None:
        self._finalizer()
        atexit.unregister(self._finalizer)

    def _start(self, env_fns: Sequence[EnvFn], workers: int) -> None:
        ends = [len(env_fns) * worker // workers for worker in range(workers + 1)]
        for index, rows in enumerate(map(slice, ends[:-1], ends[1:])):
            name = f"worker {index} (environments {rows.start} to {rows.stop - 1})"
            self._workers.append(WorkerProcess(name, rows))
        built = self._first_call([("build", _pickled(env_fns[w.rows])) for w in self._workers])
        self._shapes = self._set_up([pair for pairs in built for pair in pairs])
        self._memory.append(SharedMemory(create=True, size=num_bytes(self._shapes)))
        self._arrays.update(views(self._memory[0], self._shapes))
        self._first_call([("attach", *self._attachment(w.rows)) for w in self._workers])

    def _first_call(self, messages: Sequence[tuple[Any, ...]]) -> list[Any]:
        seconds = max(self._timeout, BUILD_TIMEOUT)
        replies = exchange(self._workers, messages, seconds)
        for worker, reply in zip(self._workers, replies, strict=True):
            if reply is None:
                raise RuntimeError(worker.give_up(seconds))
            _raise_if_error(worker, reply)
        return [result for _, result in replies]

    def _attachment(self, rows: slice) -> Attachment:
        return self._memory[0].name, self._shapes, rows

    def replace(self, env_fns: Mapping[int, EnvFn]) -> None:
        rows = list(env_fns)
        super().replace(dict(zip(rows, _pickled(env_fns.values()), strict=True)))

    def _call(self, command: str, per_row: list[Any] | None = None) -> Replies:
        seconds = max(self._timeout, BUILD_TIMEOUT) if command == "replace" else self._timeout
        messages = self._messages(command, per_row)
        answers = exchange([self._workers[index] for index in messages], messages.values(), seconds)
        replies = Replies([None] * self.num_envs, {}, [])
        for index, answer in zip(messages, answers, strict=True):
            worker = self._workers[index]
            if answer is None:
                replies.lost.append(self._restart(index, seconds))
                continue
            _raise_if_error(worker, answer)
            replies.values[worker.rows], errors = answer[1]
            replies.errors |= {worker.rows.start + row: text for row, text in errors.items()}
        return replies

    def _messages(self, command: str, per_row: list[Any] | None) -> dict[int, tuple[Any, ...]]:
        """What to send to which worker. One that has nothing to do is left out, since it may just
        have been started, and that takes longer than some calls may."""
        messages: dict[int, tuple[Any, ...]] = {}
        for index, worker in enumerate(self._workers):
            part = None if per_row is None else per_row[worker.rows]
            empty = command != "replace" and self._arrays["failed"][worker.rows].all()
            if part is None and not empty:
                messages[index] = (command,)
            elif part is not None and not empty and any(entry is not None for entry in part):
                messages[index] = (command, part)
        return messages

    def _restart(self, index: int, seconds: float) -> Fault:
        """Put another worker in the place of one that has not answered for `seconds`."""
        old = self._workers[index]
        fate = old.give_up(seconds)
        self._workers[index] = WorkerProcess(old.name, old.rows, self._attachment(old.rows))
        old.end(0.0)
        return Fault(tuple(range(old.rows.start, old.rows.stop)), fate)


def _pickled(env_fns: Iterable[EnvFn]) -> list[EnvFn]:
    """Functions that do the same and are read in the worker only when called."""
    return [functools.partial(build_pickled, cloudpickle.dumps(env_fn)) for env_fn in env_fns]


def _raise_if_error(worker: WorkerProcess, reply: tuple[type[Exception] | None, Any]) -> None:
    kind, text = reply
    if kind is not None:
        raise kind(f"{worker.name}:\n{text}")


def _shut_down(workers: list[WorkerProcess], memory: list[SharedMemory], arrays: Arrays) -> None:
    shut_down(workers)
    arrays.clear()  # the views keep the memory from being closed
    while memory:
        block = memory.pop()
        block.unlink()
        block.close()
