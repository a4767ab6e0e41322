"""Replay batches to measure with: from the real environment, or of random numbers."""

from collections.abc import Callable

import jax
import numpy as np

from dreamer_jax.envs.vector import FaultLimit
from dreamer_jax.replay.prefetch import to_batch
from dreamer_jax.replay.replay import Replay
from dreamer_jax.run.driver import Driver, replay_spec
from dreamer_jax.run.setup import RunSetup
from dreamer_jax.seeding import ENV_STREAM
from dreamer_jax.types import Batch

STREAM_LENGTHS = 4  # sequence lengths that are recorded per environment


def batch_shapes(parts: RunSetup) -> Batch:
    """Shapes of a batch [M, B, L, ...]; nothing is allocated."""
    lead = (len(parts.seeds), parts.config.batch, parts.config.length)
    spec = replay_spec(parts.agent.obs_shapes, parts.action)
    return to_batch({k: jax.ShapeDtypeStruct((*lead, *s), dtype) for k, (s, dtype) in spec.items()})


def make_batch(parts: RunSetup, *, synthetic: bool) -> Batch:
    """A batch on the device, drawn from a replay of random actions.

    Args:
        synthetic: record random numbers of the right shapes; no environment is stepped.

    Raises:
        TooManyFaults: an environment failed.
    """
    config, steps = parts.config, STREAM_LENGTHS * parts.config.length
    replay = Replay(
        spec=replay_spec(parts.agent.obs_shapes, parts.action),
        seeds=parts.seeds,
        num_envs=config.env.num_envs,
        capacity=2 * steps * config.env.num_envs,
        slack=2 * steps,
        batch=config.batch,
        length=config.length,
        sampling="time",  # random play may be far from the end of its first episode
        directory=None,
    )
    fill: Callable[[RunSetup, Replay, int], None] = _invent if synthetic else _play
    fill(parts, replay, steps)
    batch = jax.device_put(to_batch(replay.gather(replay.draw())))
    replay.close()
    return batch


def _play(parts: RunSetup, replay: Replay, steps: int) -> None:
    """Record `steps` random actions in each environment."""
    env = parts.config.env
    vector = parts.make_vector(
        ENV_STREAM, env.num_envs, FaultLimit(0, lambda row, text: None), workers=env.workers
    )
    driver = Driver(vector, replay, parts.seeds, parts.obs_keys)
    try:
        for step in range(steps):
            driver.reset_finished()
            driver.step(driver.random_actions(step))
    finally:
        vector.close()


def _invent(parts: RunSetup, replay: Replay, steps: int) -> None:
    """Record one episode of random numbers in each stream."""
    rng = np.random.default_rng(0)
    shape = (len(parts.seeds), parts.config.env.num_envs)
    spec = replay_spec(parts.agent.obs_shapes, parts.action)
    for step in range(steps):
        record = {key: _random(rng, (*shape, *s), dtype) for key, (s, dtype) in spec.items()}
        if parts.action.discrete:
            record["action"] = rng.integers(parts.action.size, size=shape, dtype=np.int32)
        flags = ("is_first", "is_last", "is_terminal")
        record |= {flag: np.full(shape, flag == "is_first" and step == 0) for flag in flags}
        replay.add(record, np.ones(shape, bool))


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if np.issubdtype(dtype, np.integer):
        return rng.integers(np.iinfo(dtype).max, size=shape, dtype=dtype, endpoint=True)
    return rng.uniform(-1, 1, shape).astype(dtype)
