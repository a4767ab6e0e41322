"""The replay as arrays on a device, written and sampled inside of compiled code.

Records, batches and the law of sampling are those of `replay.Replay`. All arrays are part of the
checkpoint, so there is no slack: a stream has room for its live records alone, and record t lies in
slot t % S. Functions take and return the replay of M members; nothing is shared between them.

A record is stored flat. With the axes of an image, a TPU would pad its channels to the length of a
vector register, in a copy of all records.
"""

import math
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from dreamer_jax.errors import lookup
from dreamer_jax.replay.layout import Layout
from dreamer_jax.types import Array

NONE = -1  # in place of a record number


@struct.dataclass
class DeviceReplay:
    """The records of M members in E environments each, S per stream."""

    records: dict[str, Array]  # by key: [M, E, S] of scalars, else [M, E, S, numbers of a record]
    written: Array  # [M, E] int32, records ever added
    open: Array  # [M, E] int32, first record of the episode in progress, NONE between episodes
    # The complete episodes of at least L records: number i is at place i % P, P = S // L. That is
    # always enough for the live ones, since they are disjoint.
    starts: Array  # [M, E, P] int32, first record
    stops: Array  # [M, E, P] int32, the record after the last one
    episodes: Array  # [M, E] int32, number ever added
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = struct.field(pytree_node=False)  # of a record

    @property
    def oldest(self) -> Array:
        """The first live record of every stream; live are [oldest, written)."""
        return jnp.maximum(0, self.written - self.records["is_last"].shape[-1])


@struct.dataclass
class Draws:
    """The sequences of a batch, each given by its environment and its first record."""

    env: Array  # [M, B] int32
    start: Array  # [M, B] int32
    empty: Array  # [M] bool, members that have no sequence


def init_replay(layout: Layout, num_members: int, length: int) -> DeviceReplay:
    """Return an empty replay for sequences of `length` records.

    Args:
        layout: of one member; its slack is not used.
    """
    streams, slots = (num_members, layout.envs), layout.capacity
    table = (*streams, slots // length)
    return DeviceReplay(
        records={
            key: jnp.zeros((*streams, slots, *_flat(shape)), dtype)
            for key, (shape, dtype) in layout.entries.items()
        },
        written=jnp.zeros(streams, jnp.int32),  # no array twice: all are donated
        open=jnp.full(streams, NONE, jnp.int32),
        starts=jnp.full(table, NONE, jnp.int32),
        stops=jnp.full(table, NONE, jnp.int32),
        episodes=jnp.zeros(streams, jnp.int32),
        shapes=tuple((key, shape) for key, (shape, _) in layout.entries.items()),
    )


def _flat(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of a record as it is stored."""
    return (math.prod(shape),) if shape else ()


def add(replay: DeviceReplay, step: Mapping[str, Array], mask: Array, length: int) -> DeviceReplay:
    """Append one record to each masked stream.

    Args:
        step: an array [M, E, ...] per key.
        mask: [M, E] bool.
    """
    records = {
        key: _put(
            replay.records[key],
            replay.written,
            step[key].reshape(*mask.shape, *_flat(shape)),
            mask,
        )
        for key, shape in replay.shapes
    }
    begun = jnp.where(mask & step["is_first"], replay.written, replay.open)
    added = replay.replace(records=records, written=replay.written + mask, open=begun)
    return _complete(added, mask & step["is_last"], length)


def close_open(replay: DeviceReplay, mask: Array, length: int) -> DeviceReplay:
    """End the episodes in progress in the masked streams [M, E], as truncated."""
    mask = mask & (replay.open >= 0)
    is_last = _put(replay.records["is_last"], replay.written - 1, jnp.ones_like(mask), mask)
    records = replay.records | {"is_last": is_last}
    return _complete(replay.replace(records=records), mask, length)


def _complete(replay: DeviceReplay, mask: Array, length: int) -> DeviceReplay:
    """Record that the episodes in progress in the masked streams are complete."""
    is_long = mask & (replay.written - replay.open >= length)
    return replay.replace(
        open=jnp.where(mask, NONE, replay.open),
        starts=_put(replay.starts, replay.episodes, replay.open, is_long),
        stops=_put(replay.stops, replay.episodes, replay.written, is_long),
        episodes=replay.episodes + is_long,
    )


def _put(ring: Array, number: Array, value: Array, mask: Array) -> Array:
    """Write entry `number` [M, E] of the masked streams of a ring [M, E, S, ...]."""
    members, envs, size = ring.shape[:3]
    place = jnp.where(mask, number % size, size)  # out of bounds: dropped
    index = jnp.arange(members)[:, None], jnp.arange(envs)[None, :], place
    return ring.at[index].set(value.astype(ring.dtype), mode="drop", unique_indices=True)


# (key, one member's replay [E, ...], sequences B, records of one L) -> env [B], start [B], empty []
Sampler = Callable[[Array, DeviceReplay, int, int], tuple[Array, Array, Array]]


def sample_windows(
    key: Array, replay: DeviceReplay, batch: int, length: int
) -> tuple[Array, Array, Array]:
    """Draw from all windows of live records; see `samplers.WindowSampler`."""
    oldest = replay.oldest
    env, choice, empty = _choose(key, jnp.maximum(0, replay.written - oldest - length + 1), batch)
    return env, oldest[env] + choice, empty


def episode_sampler(offsets: Callable[[Array, Array, int], Array]) -> Sampler:
    """Return a sampler of complete episodes; see `samplers.EpisodeSampler`.

    Args:
        offsets: (key, records of each episode [B], L) -> offsets of starts [B].
    """

    def sample(key, replay, batch, length):
        choice_key, offset_key = jax.random.split(key)
        oldest = replay.oldest
        count = (replay.starts >= oldest[:, None]).sum(axis=1)
        has_complete = count.any()
        begun = jnp.maximum(replay.open, oldest)
        is_long = (replay.open >= 0) & (replay.written - begun >= length)
        env, number, empty = _choose(choice_key, jnp.where(has_complete, count, is_long), batch)
        place = (replay.episodes[env] - count[env] + number) % replay.starts.shape[1]
        start = jnp.where(has_complete, replay.starts[env, place], begun[env])
        stop = jnp.where(has_complete, replay.stops[env, place], replay.written[env])
        return env, start + offsets(offset_key, stop - start, length), empty

    return sample


def uniform_offsets(key: Array, total: Array, length: int) -> Array:
    """Draw every start with the same probability."""
    return jax.random.randint(key, total.shape, 0, total - length + 1)


def offsets_near_ends(key: Array, total: Array, length: int) -> Array:
    """Draw min(u, total - length) with u uniform on [0, total]."""
    return jnp.minimum(jax.random.randint(key, total.shape, 0, total + 1), total - length)


def _choose(key: Array, choices: Array, batch: int) -> tuple[Array, Array, Array]:
    """Draw uniformly over all choices of all streams.

    Args:
        choices: number of choices of each stream, [E].

    Returns:
        The stream and the number of the choice in it, [B] each, and whether there is none, [].
    """
    bounds = jnp.cumsum(choices)
    choice = jax.random.randint(key, (batch,), 0, jnp.maximum(bounds[-1], 1))
    env = jnp.searchsorted(bounds, choice, side="right", method="compare_all")
    env = jnp.minimum(env, len(choices) - 1)
    return env, choice - (bounds - choices)[env], bounds[-1] == 0


# By `config.replay.sampling`, as `samplers.SAMPLERS`.
DEVICE_SAMPLERS: dict[str, Sampler] = {
    "episodes": episode_sampler(offsets_near_ends),
    "episodes_uniform": episode_sampler(uniform_offsets),
    "time": sample_windows,
}


def draw(replay: DeviceReplay, keys: Array, *, sampling: str, batch: int, length: int) -> Draws:
    """Draw B sequences for each member with its own key [M]."""
    sampler = lookup(DEVICE_SAMPLERS, sampling, "config.replay.sampling")
    cursors = replay.replace(records={"is_last": replay.records["is_last"]})
    return Draws(*jax.vmap(lambda key, member: sampler(key, member, batch, length))(keys, cursors))


def gather(replay: DeviceReplay, draws: Draws, length: int) -> dict[str, Array]:
    """Return the drawn sequences, each with `is_first` set at its beginning.

    Returns:
        An array [M, B, L, ...] per key. Members without a sequence get rewards that are not a
        number, so that no update is made of them.
    """
    members = jnp.arange(draws.env.shape[0])[:, None, None]
    records = draws.start[:, :, None] + jnp.arange(length)[None, None, :]
    slots = records % replay.records["is_last"].shape[2]
    index = members, draws.env[:, :, None], slots
    batch = {
        key: replay.records[key][index].reshape(*slots.shape, *shape)
        for key, shape in replay.shapes
    }
    batch["is_first"] = batch["is_first"].at[:, :, 0].set(True)
    batch["reward"] = jnp.where(draws.empty[:, None, None], jnp.nan, batch["reward"])
    return batch


def written_part(replay: DeviceReplay) -> DeviceReplay:
    """Return a copy in the host's memory without the slots that no record was ever written to.

    It has one slot at least, since checkpoints hold no empty arrays.
    """
    slots = min(max(1, int(np.max(replay.written))), replay.records["is_last"].shape[2])
    records = {key: np.asarray(array)[:, :, :slots] for key, array in replay.records.items()}
    return jax.tree.map(np.array, replay.replace(records=records))


def with_slots(replay: DeviceReplay, slots: int) -> DeviceReplay:
    """Return the shapes of a replay, `jax.ShapeDtypeStruct`, with another number of slots."""
    records = {
        key: jax.ShapeDtypeStruct((*x.shape[:2], slots, *x.shape[3:]), x.dtype, sharding=x.sharding)
        for key, x in replay.records.items()
    }
    return replay.replace(records=records)


def with_empty_slots(replay: DeviceReplay, like: DeviceReplay) -> DeviceReplay:
    """Undo `written_part`, given the shapes of the whole replay."""

    def fill(array: Array, like: jax.ShapeDtypeStruct) -> Array:
        if array.shape == like.shape:
            return array
        whole = np.zeros(like.shape, like.dtype)  # on the host: the device may have no room for two
        whole[:, :, : array.shape[2]] = array
        return jax.device_put(whole, like.sharding)

    return replay.replace(records=jax.tree.map(fill, replay.records, like.records))
