"""Batches ahead of time: drawn when the update before is due, copied while it runs."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np
from jax.sharding import Sharding

from dreamer_jax.replay.replay import Replay
from dreamer_jax.replay.samplers import Indices
from dreamer_jax.types import Batch


class Prefetcher:
    """Keeps one batch in flight. What is drawn depends on the replay alone, not on timing."""

    def __init__(self, replay: Replay, sharding: Sharding):
        """Args: sharding: of batches on the device."""
        self._replay, self._sharding = replay, sharding
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._indices: Indices | None = None
        self._future: Future[Batch] | None = None

    def next(self) -> Batch:
        """A batch [M, B, T, ...] on the device; the following one is drawn now.

        Raises:
            RuntimeError: the replay has nothing to draw.
        """
        batch = self.peek()
        self._submit(self._replay.draw())
        return batch

    def peek(self) -> Batch:
        """The batch that `next` will return."""
        if self._future is None:
            self._submit(self._replay.draw())
        return self._future.result()

    def settle(self) -> None:
        """Wait until no copy is under way."""
        if self._future is not None:
            self._future.result()

    def state(self) -> dict | None:
        """The indices in flight as JSON data; `restore` gathers the same batch again."""
        if self._indices is None:
            return None
        return {"env": self._indices.env.tolist(), "start": self._indices.start.tolist()}

    def restore(self, state: Mapping | None) -> None:
        if state is not None:
            env, start = (np.array(state[name], np.int64) for name in ("env", "start"))
            self._submit(Indices(env=env, start=start))

    def close(self) -> None:
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, indices: Indices) -> None:
        self._indices = indices
        self._future = self._pool.submit(self._load, indices)

    def _load(self, indices: Indices) -> Batch:
        return jax.device_put(to_batch(self._replay.gather(indices)), self._sharding)


def to_batch(arrays: Mapping[str, np.ndarray]) -> Batch:
    """Replay records by key -> Batch; observation entries are the keys under `obs/`."""
    obs = {key.removeprefix("obs/"): x for key, x in arrays.items() if key.startswith("obs/")}
    names = ("action", "reward", "is_first", "is_last", "is_terminal")
    return Batch(obs=obs, **{name: arrays[name] for name in names})
