"""The worker process of a vector, which steps its environments in memory shared with the parent."""

import multiprocessing
import os
import pickle
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from multiprocessing.connection import wait
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import cv2
import gymnasium
import numpy as np

from dreamer_jax.envs.vector.slots import Arrays, EnvSlots, Layout
from dreamer_jax.errors import UsageError
from dreamer_jax.streams import SafeStream

ALIGNMENT = 64  # bytes, a cache line
HEADER = struct.Struct("!Q")  # the length of the reply that follows
PATIENCE = 5.0  # seconds that a worker has to close its environments
Attachment = tuple[str, Layout, slice]  # name of the shared memory, its layout, the worker's rows


class Memory(SharedMemory):
    """Shared memory that may be closed while arrays use it, and is unmapped with the last one.

    The frames of an exception's traceback, for instance, can hold observations.
    """

    def close(self) -> None:
        """Unmap the memory unless arrays use it."""
        try:
            super().close()
        except BufferError:
            pass


def num_bytes(shapes: Layout) -> int:
    """Return the size of the shared memory."""
    return sum(_aligned(shape, dtype) for shape, dtype in shapes.values())


def views(memory: Memory, shapes: Layout, rows: slice = slice(None)) -> Arrays:
    """Return the given rows of the arrays in the shared memory."""
    # An array made by `np.ndarray(buffer=...)` would not keep the memory from being unmapped.
    data, arrays, offset = np.frombuffer(memory.buf, np.uint8), {}, 0
    for name, (shape, dtype) in shapes.items():
        size = int(np.prod(shape)) * dtype.itemsize
        arrays[name] = data[offset : offset + size].view(dtype).reshape(shape)[rows]
        offset += _aligned(shape, dtype)
    return arrays


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return -(-int(np.prod(shape)) * dtype.itemsize // ALIGNMENT) * ALIGNMENT


def build_pickled(env_fn: bytes) -> gymnasium.Env:
    """Build an environment with a pickled function; unpickling too may raise the row's error."""
    return pickle.loads(env_fn)()


def serve(connection: socket.socket, count: int, attachment: Attachment | None) -> None:
    """Execute commands for `count` rows until the parent closes the connection or dies.

    A command is a pickled tuple of the name of a method of the slots and its arguments.
    """
    # These signals are sent to the whole process group, and the parent decides what to do. All but
    # SIGINT get a handler, because programs that an environment starts would inherit SIG_IGN and
    # could not be terminated.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, lambda number, frame: None)
    # An environment that prints must not fail because of it.
    sys.stdout, sys.stderr = SafeStream(sys.stdout), SafeStream(sys.stderr)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")  # an accelerator's memory belongs to the parent
    cv2.setNumThreads(0)
    connection.set_inheritable(False)
    slots = _SharedSlots(count)
    if attachment is not None:
        slots.attach_memory(*attachment)
    with connection, connection.makefile("rb") as stream:
        try:
            while True:
                reply = _reply(slots, *pickle.load(stream))
                connection.sendall(HEADER.pack(len(reply)) + reply)
        except (EOFError, OSError, pickle.UnpicklingError):
            pass  # the parent has closed the connection
        slots.close()


def _end_with_parent() -> None:
    """Kill this process, even in an environment that hangs, after the parent has died."""
    wait([multiprocessing.parent_process().sentinel])
    time.sleep(PATIENCE)
    os.kill(os.getpid(), signal.SIGKILL)


class _SharedSlots(EnvSlots):
    def attach_memory(self, name: str, shapes: Layout, rows: slice) -> None:
        self._memory = Memory(name)
        self.attach(views(self._memory, shapes, rows))


def _reply(slots: _SharedSlots, command: str, *arguments: Any) -> bytes:
    """Return, pickled, None and the result, or the kind of error to raise and the traceback."""
    try:
        return pickle.dumps((None, getattr(slots, command)(*arguments)))
    except Exception as error:
        if isinstance(error, UsageError | FileNotFoundError):  # says all that there is to say
            return pickle.dumps((type(error), str(error)))
        kind = ValueError if isinstance(error, ValueError) else RuntimeError
        return pickle.dumps((kind, traceback.format_exc()))
