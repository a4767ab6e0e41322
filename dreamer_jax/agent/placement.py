"""Placement of a run's arrays: on one device, or on a mesh over members and sequences.

With at least as many members as devices, every device trains members of its own and never waits for
another device. With fewer members, several devices share the sequences of one member's batch. The
devices of a CPU are its cores (`runtime.use_cores`).
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from dreamer_jax.errors import UsageError

T = TypeVar("T")
MEMBER, DATA = "member", "data"  # axes of the mesh


@dataclass(frozen=True)
class Placement:
    """The devices of a run."""

    devices: tuple[jax.Device, ...]  # member-major
    data: int = 1  # number of devices that share one member

    @functools.cached_property
    def mesh(self) -> Mesh | None:
        """The mesh with axes `MEMBER` and `DATA`; None on a single device."""
        if len(self.devices) == 1:
            return None
        return Mesh(np.array(self.devices).reshape(-1, self.data), (MEMBER, DATA))

    @property
    def by_member(self) -> Sharding:
        """Sharding of arrays [M, ...]: states, carries, observations, metrics."""
        return self._sharding(MEMBER)

    @property
    def by_sequence(self) -> Sharding:
        """Sharding of arrays [M, B, ...]: batches."""
        return self._sharding(MEMBER, DATA)

    def put(self, tree: T) -> T:
        """Move arrays [M, ...] to where a checkpoint restores them, for the same programs."""
        return jax.device_put(tree, self.by_member)

    def _sharding(self, *axes: str) -> Sharding:
        if self.mesh is None:
            return SingleDeviceSharding(self.devices[0])
        return NamedSharding(self.mesh, PartitionSpec(*axes))


def one_device() -> Placement:
    """Place everything on the first device."""
    return Placement(devices=(jax.local_devices()[0],))


def place(
    num_members: int, batch: int, devices: int, available: Sequence[jax.Device] | None = None
) -> Placement:
    """Spread members over the local devices, and batches if there are fewer members.

    Args:
        batch: number of sequences B of each member.
        devices: number of devices to use, 0 for all. On a CPU, 0 uses the most cores that get
            members of their own: a core is faster on its own member than on a part of a batch, and
            a program on one device uses all cores anyway.
        available: devices to choose from; None for those of this process.

    Raises:
        UsageError: too few devices, or members and sequences do not divide over them.
    """
    available = jax.local_devices() if available is None else available
    if devices > len(available):
        raise UsageError(
            f"config.devices is {devices}; allowed: 0 for all, or at most the {len(available)} "
            f"devices ({available[0].platform}) of this process"
        )
    count = devices or _all_of(available, num_members)
    data = _devices_per_member(num_members, count)
    if data and batch % data == 0:
        return Placement(tuple(available[:count]), data)
    reason = (
        f"config.batch = {batch} sequences do not divide over the {data} devices of each member"
        if data
        else f"{num_members} members do not divide over {count} devices, nor devices over members"
    )
    splits = {n: _devices_per_member(num_members, n) for n in range(1, len(available) + 1)}
    compatible = [str(n) for n, split in splits.items() if split and batch % split == 0]
    raise UsageError(
        f"config.devices is {devices}, that is {count} of {len(available)}, but {reason}; allowed "
        f"for these members and sequences: config.devices = {', '.join(compatible)}"
    )


def place_whole_members(num_members: int, devices: int) -> Placement:
    """Spread members over the local devices so that no devices share one.

    Args:
        devices: number of devices to use; 0 for as many as divide the members.

    Raises:
        UsageError: members do not divide over the devices.
    """
    available = jax.local_devices()
    allowed = [n for n in range(1, len(available) + 1) if num_members % n == 0]
    if devices and devices not in allowed:
        raise UsageError(
            f"config.devices is {devices}; allowed with config.loop = 'device', where no devices "
            f"share a member: 0, or one of {', '.join(map(str, allowed))}"
        )
    return Placement(tuple(available[: devices or allowed[-1]]))


def _all_of(available: Sequence[jax.Device], num_members: int) -> int:
    """Return the number of devices that `devices=0` stands for."""
    if available[0].platform != "cpu":
        return len(available)
    return max(n for n in range(1, len(available) + 1) if num_members % n == 0)


def _devices_per_member(num_members: int, devices: int) -> int:
    """Return the number of devices that share a member; 0 if neither count divides the other."""
    if num_members % devices == 0:
        return 1
    return devices // num_members if devices % num_members == 0 else 0
