"""Worker processes as their parent sees them. No call waits for one without a limit."""

import logging
import multiprocessing
import pickle
import selectors
import socket
import time
from collections.abc import Collection, Sequence
from typing import Any

from dreamer_jax.envs.vector.worker import HEADER, PATIENCE, Attachment, serve

log = logging.getLogger(__name__)

# Made anew for every call, in which an epoll costs more than it saves.
Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)
TICK = 1.0  # seconds between two looks at whether silent workers are alive
CHUNK = 1 << 16  # bytes


class WorkerProcess:
    """A worker, from its start to its end.

    Args:
        name: for messages.
        rows: of the vector.
        attachment: the shared memory, where it is there already.
    """

    def __init__(self, name: str, rows: slice, attachment: Attachment | None = None) -> None:
        self.name, self.rows = name, rows
        self.hung_up = False  # it closed its end, or the system did
        self._unsent = memoryview(b"")
        self._received = bytearray()
        self._socket, theirs = socket.socketpair()
        self._socket.setblocking(False)
        self._process = multiprocessing.get_context("spawn").Process(
            target=serve, args=(theirs, rows.stop - rows.start, attachment), daemon=True
        )
        with theirs:  # left open here, the end of the worker would not end our wait for it
            self._process.start()

    @property
    def pid(self) -> int | None:
        """The process's number."""
        return self._process.pid

    def fileno(self) -> int:
        """For selectors."""
        return self._socket.fileno()

    def is_alive(self) -> bool:
        """Whether the process is there."""
        return self._process.is_alive()

    def post(self, message: tuple[Any, ...]) -> None:
        """Begin to send a command and its arguments; `advance` sends the rest."""
        self._unsent = memoryview(pickle.dumps(message))
        self._received.clear()
        self._send()

    @property
    def events(self) -> int:
        """What a selector should wait for."""
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)

    def advance(self) -> tuple[type[Exception] | None, Any] | None:
        """Send and receive what is possible without waiting; the reply, once it is complete."""
        self._send()
        try:
            data = self._socket.recv(CHUNK)
            self.hung_up = not data
        except BlockingIOError:
            return None
        except OSError:
            self.hung_up = True
            return None
        self._received += data
        if len(self._received) < HEADER.size:
            return None
        if len(self._received) < HEADER.size + HEADER.unpack_from(self._received)[0]:
            return None
        return pickle.loads(memoryview(self._received)[HEADER.size :])

    def _send(self) -> None:
        try:
            while self._unsent:
                self._unsent = self._unsent[self._socket.send(self._unsent) :]
        except BlockingIOError:
            pass  # full
        except OSError:
            self._unsent = memoryview(b"")  # it is gone, which receiving shows

    def give_up(self, seconds: float) -> str:
        """Kill a worker that has not answered for `seconds`; what was wrong with it."""
        if self.hung_up:
            self._process.join(PATIENCE)
        hangs = not self.hung_up and self._process.is_alive()
        self._process.kill()
        self._process.join(PATIENCE)
        if hangs:
            return f"{self.name} hung for {seconds:g} seconds and was killed"
        return f"{self.name} died with exit code {self._process.exitcode}"

    def hang_up(self) -> None:
        """Ask the worker to close its environments and end."""
        try:
            # Not only closed: processes that were forked from this one may have it open too.
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # it is gone

    def end(self, patience: float) -> None:
        """Wait for the process to end, and kill it after `patience` seconds."""
        self._process.join(patience)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(PATIENCE)
        self._socket.close()
        if self._process.is_alive():
            log.warning("%s, process %d, cannot be killed", self.name, self.pid)
        else:
            self._process.close()


def exchange(
    workers: Sequence[WorkerProcess], messages: Collection[tuple[Any, ...]], seconds: float
) -> list[tuple[type[Exception] | None, Any] | None]:
    """Send every worker its message and wait for all replies, at most `seconds`.

    Returns:
        The replies; None from a worker that is gone or took too long.
    """
    replies: list[Any] = [None] * len(workers)
    with Selector() as selector:
        for index, (worker, message) in enumerate(zip(workers, messages, strict=True)):
            worker.post(message)
            selector.register(worker, worker.events, index)
        while selector.get_map() and seconds > 0:
            begin = time.monotonic()
            ready = selector.select(min(seconds, TICK))
            # If all processes are stopped for a while, the time counts as one tick, not a hang.
            seconds -= min(time.monotonic() - begin, TICK)
            # Silent ones may be dead: a process that they forked can keep the connection open.
            for key in [key for key, _ in ready] or list(selector.get_map().values()):
                worker = key.fileobj
                replies[key.data] = worker.advance()
                gone = worker.hung_up or not (ready or worker.is_alive())
                if replies[key.data] is not None or gone:
                    selector.unregister(worker)
                elif key.events != worker.events:
                    selector.modify(worker, worker.events, key.data)
    return replies


def shut_down(workers: list[WorkerProcess]) -> None:
    """End all workers, together within the time that they have to close their environments."""
    for worker in workers:
        worker.hang_up()
    deadline = time.monotonic() + PATIENCE
    while workers:
        workers.pop().end(max(0.0, deadline - time.monotonic()))
