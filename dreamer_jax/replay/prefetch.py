"""Batches prefetched to the device: drawn when the previous update is due, copied while it runs."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import jax
import numpy as np
from jax.sharding import Sharding

from dreamer_jax.replay.replay import Replay
from dreamer_jax.replay.samplers import Indices
from dreamer_jax.types import Batch


class Prefetcher:
    """A queue of one batch in flight. Draws depend on the replay alone, never on timing."""

    def __init__(self, replay: Replay, sharding: Sharding):
        """Start the thread that copies batches to the device, with the given sharding."""
        self._replay, self._sharding = replay, sharding
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
        self._indices: Indices | None = None
        self._future: Future[Batch] | None = None
        self.empty = np.zeros(replay.num_members, bool)  # members without data in the last batch

    def next(self) -> Batch:
        """Return a batch [M, B, T, ...] on the device, and draw the following one."""
        batch = self.peek()
        self.empty = self._indices.empty
        self._submit(self._replay.draw())
        return batch

    def peek(self) -> Batch:
        """Return the batch that `next` will return."""
        if self._future is None:
            self._submit(self._replay.draw())
        return self._future.result()

    def settle(self) -> None:
        """Wait until no copy is running."""
        if self._future is not None:
            self._future.result()

    def state(self) -> list[dict] | list[None]:
        """Return the indices of the batch in flight as JSON data, for `restore`.

        Returns:
            M records `{"env": [B], "start": [B]}`, or M times None before the first draw.
        """
        if self._indices is None:
            return [None] * self._replay.num_members
        rows = zip(self._indices.env.tolist(), self._indices.start.tolist(), strict=True)
        return [{"env": env, "start": start} for env, start in rows]

    def restore(self, records: Sequence[Mapping] | Sequence[None]) -> None:
        """Gather the batch that was in flight at a `state`."""
        if None not in records:
            env, start = (np.array([r[key] for r in records]) for key in ("env", "start"))
            self._submit(Indices(env, start))

    def close(self) -> None:
        """End the thread."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, indices: Indices) -> None:
        self._indices = indices
        self._future = self._pool.submit(self._load, indices)

    def _load(self, indices: Indices) -> Batch:
        return jax.device_put(to_batch(self._replay.gather(indices)), self._sharding)


def to_batch(arrays: Mapping[str, np.ndarray]) -> Batch:
    """Return replay records by key as a Batch; observations are the keys under `obs/`."""
    obs = {key.removeprefix("obs/"): x for key, x in arrays.items() if key.startswith("obs/")}
    names = ("action", "reward", "is_first", "is_last", "is_terminal")
    return Batch(obs=obs, **{name: arrays[name] for name in names})
