"""Steps many environments at once, in this process or in several."""

import multiprocessing
import pickle
import signal
import traceback
import weakref
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import cloudpickle
import cv2
import numpy as np

from dreamer_jax.envs.rows import Arrays, EnvFn, Layout, Rows
from dreamer_jax.envs.vector_api import StepResult, Vector

__all__ = ["LocalVector", "ProcessVector", "StepResult", "Vector", "make_vector"]

ALIGNMENT = 64  # bytes, a cache line
PATIENCE = 5.0  # seconds that a worker has to close its environments


def make_vector(env_fns: Sequence[EnvFn], workers: int = 0) -> Vector:
    """Step environments in this process, or in `workers` others.

    Args:
        env_fns: N functions that build an environment each.
        workers: 0 for this process, else the number of processes, at most N.

    Raises:
        ValueError: no environments, their spaces differ, or `workers` is out of range.
    """
    return ProcessVector(env_fns, workers) if workers else LocalVector(env_fns)


class LocalVector(Vector):
    """Environments in this process, the fastest where they are cheap.

    Args:
        env_fns: N functions that build an environment each.

    Raises:
        ValueError: no environments, or their spaces differ.
    """

    def __init__(self, env_fns: Sequence[EnvFn]) -> None:
        if not env_fns:
            raise ValueError("a vector needs at least one environment")
        self._rows = Rows(env_fns)
        try:
            shapes = self._set_up(self._rows.build())
        except BaseException:
            self._rows.close()
            raise
        self._arrays = {name: np.zeros(*shape) for name, shape in shapes.items()}
        self._rows.attach(self._arrays)

    def _close(self) -> None:
        self._rows.close()

    def _call(self, command: str, per_row: Sequence[Any] | None = None) -> list[Any]:
        return [getattr(self._rows, command)(*(() if per_row is None else (per_row,)))]


class ProcessVector(Vector):
    """Environments in worker processes, which write what they see into shared memory.

    Every worker has a contiguous run of the rows. Processes are spawned, so a script that builds
    one needs the guard `if __name__ == "__main__"`. An error in a worker is raised here with the
    worker's traceback, as a ValueError if it was one and else as a RuntimeError.

    Args:
        env_fns: N functions that build an environment each, sent by cloudpickle.
        workers: number of processes, 1 to N.

    Raises:
        ValueError: no environments, their spaces differ, or `workers` is out of range.
    """

    def __init__(self, env_fns: Sequence[EnvFn], workers: int) -> None:
        if not 1 <= workers <= len(env_fns):
            raise ValueError(
                f"workers must be from 1 to the {len(env_fns)} environments, not {workers}"
            )
        ends = [len(env_fns) * worker // workers for worker in range(workers + 1)]
        self._chunks = [slice(*pair) for pair in zip(ends[:-1], ends[1:], strict=True)]
        self._workers: list[tuple[multiprocessing.process.BaseProcess, Connection]] = []
        self._memory: list[SharedMemory] = []
        self._arrays = {}
        # Holds the parts and not self, so that it runs when self is collected or the program ends.
        self._finalizer = weakref.finalize(
            self, _shut_down, self._workers, self._memory, self._arrays
        )
        try:
            self._start([env_fns[chunk] for chunk in self._chunks])
        except BaseException:
            self.close()
            raise

    def _close(self) -> None:
        self._finalizer()

    def _start(self, chunks: Sequence[Sequence[EnvFn]]) -> None:
        context = multiprocessing.get_context("spawn")
        for env_fns in chunks:
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, cloudpickle.dumps(env_fns)), daemon=True
            )
            process.start()
            theirs.close()  # or the end of the worker would not end our wait for it
            self._workers.append((process, ours))
        shapes = self._set_up([pair for pairs in self._call("build") for pair in pairs])
        self._memory.append(SharedMemory(create=True, size=_num_bytes(shapes)))
        self._arrays.update(_views(self._memory[0], shapes))
        name = self._memory[0].name
        self._exchange([("attach", name, shapes, chunk) for chunk in self._chunks])

    def _call(self, command: str, per_row: Sequence[Any] | None = None) -> list[Any]:
        if per_row is None:
            return self._exchange([(command,)] * len(self._chunks))
        return self._exchange([(command, per_row[chunk]) for chunk in self._chunks])

    def _exchange(self, messages: Sequence[tuple[Any, ...]]) -> list[Any]:
        for (_, connection), message in zip(self._workers, messages, strict=True):
            try:
                connection.send(message)
            except OSError:
                pass  # a dead worker, which the receiving loop reports
        replies = [self._receive(index) for index in range(len(self._workers))]
        for error, _ in replies:
            if error is not None:
                raise error
        return [reply for _, reply in replies]

    def _receive(self, index: int) -> tuple[Exception | None, Any]:
        process, connection = self._workers[index]
        chunk = self._chunks[index]
        name = f"worker {index} (environments {chunk.start} to {chunk.stop - 1})"
        try:
            kind, reply = connection.recv()
        except (EOFError, OSError):
            process.join(PATIENCE)
            return RuntimeError(f"{name} died with exit code {process.exitcode}"), None
        if kind is None:
            return None, reply
        return kind(f"{name}:\n{reply}"), None


def _shut_down(workers: list, memory: list[SharedMemory], arrays: Arrays) -> None:
    for _, connection in workers:
        try:
            connection.send(("close",))
        except OSError:
            pass  # already dead
    for process, connection in workers:
        process.join(PATIENCE)
        if process.is_alive():
            process.terminate()
            process.join()
        connection.close()
        process.close()
    workers.clear()
    arrays.clear()  # the views keep the memory from being closed
    while memory:
        block = memory.pop()
        block.unlink()
        block.close()


def _num_bytes(shapes: Layout) -> int:
    return sum(_aligned(shape, dtype) for shape, dtype in shapes.values())


def _aligned(shape: tuple[int, ...], dtype: np.dtype) -> int:
    return -(-int(np.prod(shape)) * dtype.itemsize // ALIGNMENT) * ALIGNMENT


def _views(memory: SharedMemory, shapes: Layout, rows: slice = slice(None)) -> Arrays:
    views, offset = {}, 0
    for name, (shape, dtype) in shapes.items():
        views[name] = np.ndarray(shape, dtype, buffer=memory.buf, offset=offset)[rows]
        offset += _aligned(shape, dtype)
    return views


def _serve(connection: Connection, env_fns: bytes) -> None:
    """The worker: executes the methods of its `Rows` that the parent asks for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent says when to stop
    cv2.setNumThreads(0)
    worker = _Worker(env_fns)
    try:
        while (message := connection.recv())[0] != "close":
            connection.send(worker.reply(*message))
    except (EOFError, OSError):
        pass  # the parent is gone
    worker.close()


class _Worker:
    def __init__(self, env_fns: bytes) -> None:
        self._env_fns = env_fns
        self._rows: Rows | None = None
        self._memory: SharedMemory | None = None

    def reply(self, command: str, *arguments: Any) -> tuple[type[Exception] | None, Any]:
        """None and the result; or the kind of error to raise and the traceback."""
        try:
            return None, self._execute(command, arguments)
        except Exception as error:
            kind = ValueError if isinstance(error, ValueError) else RuntimeError
            return kind, traceback.format_exc()

    def _execute(self, command: str, arguments: Sequence[Any]) -> Any:
        if command == "attach":
            name, shapes, rows = arguments
            self._memory = SharedMemory(name)
            return self._rows.attach(_views(self._memory, shapes, rows))
        if command == "build":
            self._rows = Rows(pickle.loads(self._env_fns))
        return getattr(self._rows, command)(*arguments)

    def close(self) -> None:
        if self._rows is not None:
            self._rows.close()
        if self._memory is not None:
            self._memory.close()
