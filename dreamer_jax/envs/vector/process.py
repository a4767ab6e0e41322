"""A vector in worker processes, and the parent's side of a worker.

Commands are pickled and sent through non-blocking sockets, each reply with its length in front,
because `multiprocessing.Connection` blocks without a deadline on a worker that hangs in the middle
of a message.
"""

import atexit
import contextlib
import functools
import logging
import multiprocessing
import pickle
import selectors
import socket
import sys
import time
import types
import weakref
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import cloudpickle

from dreamer_jax.envs.vector.slots import Arrays, EnvFn
from dreamer_jax.envs.vector.vector import Fault, Replies, Vector
from dreamer_jax.envs.vector.worker import (
    HEADER,
    PATIENCE,
    Attachment,
    Memory,
    build_pickled,
    num_bytes,
    serve,
    views,
)
from dreamer_jax.errors import UsageError

log = logging.getLogger(__name__)

BUILD_TIMEOUT = 120.0  # seconds, the minimum timeout of calls that build environments
BUILDING = ("replace", "try_states")  # these calls
TICK = 1.0  # seconds between two checks whether silent workers are alive
CHUNK = 1 << 16  # bytes
# A selector is created for every call, and creating an epoll costs more than it saves.
Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)

Reply = tuple[type[Exception] | None, Any]  # None and the result, or an error and the traceback


class ProcessVector(Vector):
    """Environments in worker processes, which write their observations into shared memory.

    Every worker has a contiguous range of rows. Processes are spawned, and do not run the user's
    script again. A worker that dies, or does not reply within the timeout, is killed, and all its
    rows fail; a new worker waits for their new environments.

    Args:
        env_fns: N functions that build an environment each, sent by cloudpickle.
        workers: number of processes, 1 to N.
        timeout: seconds that one call may take in all workers together, more than 0; calls that
            build environments may always take 120.

    Raises:
        ValueError: spaces differ, `workers` or `timeout` is out of range, or building an
            environment raised a ValueError.
        RuntimeError: building an environment raised another error, or its worker died.
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
        self._memory: list[Memory] = []
        self._arrays = {}
        # Holds these parts and not self, so that it runs when self is collected.
        self._finalizer = weakref.finalize(
            self, _shut_down, self._workers, self._memory, self._arrays
        )
        # At the end of the program the finalizer must run before the exit handler of
        # multiprocessing, which waits for all workers. Handlers run in reverse order of their
        # registration, and that one was registered on import.
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
        pickled = _pickled(env_fns)
        built = self._first_call([("build", pickled[worker.rows]) for worker in self._workers])
        self._shapes = self._set_up([pair for pairs in built for pair in pairs])
        self._memory.append(Memory(create=True, size=num_bytes(self._shapes)))
        self._arrays.update(views(self._memory[0], self._shapes))
        self._first_call([("attach_memory", *self._attachment(w.rows)) for w in self._workers])

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

    def replace(self, env_fns: Mapping[int, EnvFn]) -> list[Fault]:
        rows = list(env_fns)
        return super().replace(dict(zip(rows, _pickled(env_fns.values()), strict=True)))

    def _call(self, command: str, *per_row: list[Any]) -> Replies:
        seconds = max(self._timeout, BUILD_TIMEOUT) if command in BUILDING else self._timeout
        messages: dict[int, tuple[Any, ...]] = {}
        for index, worker in enumerate(self._workers):
            parts = [entries[worker.rows] for entries in per_row]
            failed = command != "replace" and self._arrays["failed"][worker.rows].all()
            # A worker that has nothing to do may just have been started, which takes longer than
            # some calls may.
            if not failed and not any(part.count(None) == len(part) for part in parts):
                messages[index] = (command, *parts)
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

    def _restart(self, index: int, seconds: float) -> Fault:
        """Replace a worker that has not replied for `seconds`."""
        old = self._workers[index]
        fate = old.give_up(seconds)
        self._workers[index] = WorkerProcess(old.name, old.rows, self._attachment(old.rows))
        old.end(0.0)
        return Fault(tuple(range(old.rows.start, old.rows.stop)), fate)


class WorkerProcess:
    """A worker process that serves some rows of a vector, from its start to its end."""

    def __init__(self, name: str, rows: slice, attachment: Attachment | None = None) -> None:
        self.name, self.rows = name, rows
        self.hung_up = False  # the worker, or the system, closed the other end
        self._unsent = memoryview(b"")
        self._received = bytearray()
        self.socket, worker_socket = socket.socketpair()
        self.socket.setblocking(False)
        self.process = multiprocessing.get_context("spawn").Process(
            # Not a daemon, because environments may have processes of their own.
            target=serve,
            args=(worker_socket, rows.stop - rows.start, attachment),
            daemon=False,
        )
        # While the socket is open here, the worker's end does not close the connection.
        with worker_socket, _without_main():
            self.process.start()

    def post(self, message: tuple[Any, ...]) -> None:
        """Begin to send a command and its arguments; `advance` sends the rest."""
        self._unsent = memoryview(pickle.dumps(message))
        self._received.clear()
        self._send()

    @property
    def events(self) -> int:
        """The events that a selector should wait for."""
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)

    def advance(self) -> Reply | None:
        """Send and receive without waiting, and return the reply once it is complete."""
        self._send()
        try:
            data = self.socket.recv(CHUNK)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        self.hung_up = not data
        self._received += data
        header, reply = self._received[: HEADER.size], memoryview(self._received)[HEADER.size :]
        complete = len(header) == HEADER.size and len(reply) >= HEADER.unpack(header)[0]
        return pickle.loads(reply) if complete else None

    def _send(self) -> None:
        try:
            while self._unsent:
                self._unsent = self._unsent[self.socket.send(self._unsent) :]
        except BlockingIOError:
            pass  # the socket's buffer is full
        except OSError:
            self._unsent = memoryview(b"")  # the worker is gone, which `advance` finds out

    def give_up(self, seconds: float) -> str:
        """Kill a worker that has not replied for `seconds`, and describe its failure."""
        if self.hung_up:
            self.process.join(PATIENCE)
        hangs = not self.hung_up and self.process.is_alive()
        self.process.kill()
        self.process.join(PATIENCE)
        if hangs:
            return f"{self.name} hung for {seconds:g} seconds and was killed"
        return f"{self.name} died with exit code {self.process.exitcode}"

    def hang_up(self) -> None:
        """Ask the worker to close its environments and end."""
        try:
            # Closing is not enough: forked copies of this process may hold the socket open too.
            self.socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the worker is gone

    def end(self, patience: float) -> None:
        """Wait for the process to end, and kill it after `patience` seconds."""
        self.process.join(patience)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(PATIENCE)
        self.socket.close()
        if self.process.is_alive():
            log.warning("%s, process %d, cannot be killed", self.name, self.process.pid)
        else:
            self.process.close()


def exchange(
    workers: Sequence[WorkerProcess], messages: Collection[tuple[Any, ...]], seconds: float
) -> list[Reply | None]:
    """Return the workers' replies to their messages, None from one that dies or is too slow."""
    replies: list[Any] = [None] * len(workers)
    with Selector() as selector:
        for index, (worker, message) in enumerate(zip(workers, messages, strict=True)):
            worker.post(message)
            selector.register(worker.socket, worker.events, index)
        while selector.get_map() and seconds > 0:
            begin = time.monotonic()
            ready = selector.select(min(seconds, TICK))
            # If all processes are stopped for a while, that time counts as one tick, not a hang.
            seconds -= min(time.monotonic() - begin, TICK)
            # Silent workers may be dead: a process that they forked can hold the connection open.
            for key in [key for key, _ in ready] or list(selector.get_map().values()):
                worker = workers[key.data]
                replies[key.data] = worker.advance()
                gone = worker.hung_up or not (ready or worker.process.is_alive())
                if replies[key.data] is not None or gone:
                    selector.unregister(worker.socket)
                elif key.events != worker.events:
                    selector.modify(worker.socket, worker.events, key.data)
    return replies


def _shut_down(workers: list[WorkerProcess], memory: list[Memory], arrays: Arrays) -> None:
    """End all workers together, within the time that they have to close their environments."""
    for worker in workers:
        worker.hang_up()
    deadline = time.monotonic() + PATIENCE
    while workers:
        workers.pop().end(max(0.0, deadline - time.monotonic()))
    arrays.clear()  # they would keep the memory mapped
    while memory:
        block = memory.pop()
        block.unlink()
        block.close()


@contextlib.contextmanager
def _without_main() -> Iterator[None]:
    """Hide the user's script, which a spawned process would run again for its definitions.

    What environments need of it comes with the functions that build them. Scripts need no guard
    `if __name__ == "__main__"` then, and workers do not import what only the training needs.
    """
    script = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def _pickled(env_fns: Iterable[EnvFn]) -> list[EnvFn]:
    """Return equivalent functions that are unpickled in the worker only when they are called."""
    return [functools.partial(build_pickled, cloudpickle.dumps(env_fn)) for env_fn in env_fns]


def _raise_if_error(worker: WorkerProcess, reply: Reply) -> None:
    error, text = reply
    if error in (UsageError, FileNotFoundError):
        raise error(text)
    if error is not None:
        raise error(f"{worker.name}:\n{text}")
