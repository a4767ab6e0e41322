"""The worker process: steps its share of a vector's environments, in memory that it shares with
the parent. It ends when its socket does."""

import multiprocessing
import os
import pickle
import signal
import socket
import struct
import threading
import time
import traceback
from collections.abc import Sequence
from multiprocessing.connection import wait
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import cv2
import gymnasium
import numpy as np

from dreamer_jax.envs.vector.slots import Arrays, EnvSlots, Layout

ALIGNMENT = 64  # bytes, a cache line
HEADER = struct.Struct("!Q")  # before every reply: its length
PATIENCE = 5.0  # seconds that a worker has to close its environments
Attachment = tuple[str, Layout, slice]  # the shared memory's name, what it holds, the rows


def num_bytes(shapes: Layout) -> int:
    """Size of the shared memory."""
    return sum(_aligned(shape, dtype) for shape, dtype in shapes.values())


def views(memory: SharedMemory, shapes: Layout, rows: slice = slice(None)) -> Arrays:
    """The arrays in the shared memory, and of them the given rows."""
    arrays, offset = {}, 0
    for name, (shape, dtype) in shapes.items():
        arrays[name] = np.ndarray(shape, dtype, buffer=memory.buf, offset=offset)[rows]
        offset += _aligned(shape, dtype)
    return arrays


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return -(-int(np.prod(shape)) * dtype.itemsize // ALIGNMENT) * ALIGNMENT


def build_pickled(env_fn: bytes) -> gymnasium.Env:
    """Build an environment from its pickled function. What either raises is the row's error."""
    return pickle.loads(env_fn)()


def serve(connection: socket.socket, count: int, attachment: Attachment | None) -> None:
    """Execute commands until the parent ends the connection or is gone itself.

    Args:
        connection: brings pickled tuples, a command and its arguments; takes each one's reply.
        count: rows of this worker.
        attachment: the shared memory, where it is there already.
    """
    # Both are sent to the whole process group: the parent decides. SIGTERM has a handler, since
    # programs that an environment starts would inherit SIG_IGN, and could not be terminated.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: None)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(0)
    connection.set_inheritable(False)
    worker = _Worker(count)
    if attachment is not None:
        worker.attach(*attachment)
    with connection, connection.makefile("rb") as stream:
        try:
            while True:
                reply = worker.reply(*pickle.load(stream))
                connection.sendall(HEADER.pack(len(reply)) + reply)
        except (EOFError, OSError, pickle.UnpicklingError):
            pass  # the parent's end is closed
        worker.close()


def _end_with_parent() -> None:
    """Do not outlive the parent in an environment that hangs."""
    wait([multiprocessing.parent_process().sentinel])
    time.sleep(PATIENCE)
    os.kill(os.getpid(), signal.SIGKILL)


class _Worker:
    def __init__(self, count: int) -> None:
        self._rows = EnvSlots(count)
        self._memory: SharedMemory | None = None

    def attach(self, name: str, shapes: Layout, rows: slice) -> None:
        self._memory = SharedMemory(name)
        self._rows.attach(views(self._memory, shapes, rows))

    def reply(self, command: str, *arguments: Any) -> bytes:
        """Pickled: None and the result; or the kind of error to raise and the traceback."""
        try:
            return pickle.dumps((None, self._execute(command, arguments)))
        except Exception as error:
            kind = ValueError if isinstance(error, ValueError) else RuntimeError
            return pickle.dumps((kind, traceback.format_exc()))

    def _execute(self, command: str, arguments: Sequence[Any]) -> Any:
        target = self if command == "attach" else self._rows
        return getattr(target, command)(*arguments)

    def close(self) -> None:
        self._rows.close()
        if self._memory is not None:
            self._memory.close()
