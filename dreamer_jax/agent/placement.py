"""Where the arrays of a run are: on one device, or on a mesh of devices by member and by sequence.

With at least as many members as devices every device has members of its own, which never wait for
another device. With fewer, the devices of a member share the sequences of its batch. The devices of
a CPU are its cores (`runtime.use_cores`).
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding

from dreamer_jax.errors import UsageError

MEMBER, DATA = "member", "data"  # axes of the mesh


@dataclass(frozen=True)
class Placement:
    """The devices of a run.

    Attributes:
        devices: those that are used, member-major.
        data: how many of them share one member.
    """

    devices: tuple[jax.Device, ...]
    data: int = 1

    @property
    def mesh(self) -> Mesh | None:
        """Axes `MEMBER` and `DATA`; None on a single device, which needs none."""
        if len(self.devices) == 1:
            return None
        return Mesh(np.array(self.devices).reshape(-1, self.data), (MEMBER, DATA))

    @property
    def by_member(self) -> Sharding:
        """Of arrays [M, ...]: states, carries, observations, metrics."""
        return self._sharding(MEMBER)

    @property
    def by_sequence(self) -> Sharding:
        """Of arrays [M, B, ...]: batches."""
        return self._sharding(MEMBER, DATA)

    def put(self, tree: Any) -> Any:
        """Put arrays [M, ...] where restored ones will be, so that both run the same programs."""
        return jax.device_put(tree, self.by_member)

    def _sharding(self, *axes: str) -> Sharding:
        if self.mesh is None:
            return SingleDeviceSharding(self.devices[0])
        return NamedSharding(self.mesh, PartitionSpec(*axes))


def one_device() -> Placement:
    """Everything on the first device."""
    return Placement(devices=(jax.local_devices()[0],))


def place(num_members: int, batch: int, devices: int) -> Placement:
    """Spread members, and batches where there are fewer members, over the local devices.

    Args:
        num_members: M; batch: B; devices: how many to use, 0 for all. Of a CPU's, 0 is for as many
            as have members of their own: one core is faster on its own member than on a part of a
            batch, and a program on one device uses all cores as well.

    Raises:
        UsageError: there are not so many, or members and sequences do not divide over them.
    """
    there = jax.local_devices()
    if devices > len(there):
        raise UsageError(
            f"config.devices is {devices}; allowed: 0 for all, or at most the {len(there)} devices "
            f"({there[0].platform}) of this process"
        )
    count = devices or _all_of(there, num_members)
    data = _devices_per_member(num_members, count)
    if data and batch % data == 0:
        return Placement(tuple(there[:count]), data)
    reason = (
        f"config.batch = {batch} sequences do not divide over the {data} devices of each member"
        if data
        else f"{num_members} members do not divide over {count} devices, nor devices over members"
    )
    splits = {n: _devices_per_member(num_members, n) for n in range(1, len(there) + 1)}
    fitting = [str(n) for n, split in splits.items() if split and batch % split == 0]
    raise UsageError(
        f"config.devices is {devices}, that is {count} of {len(there)}, but {reason}; allowed for "
        f"these members and sequences: config.devices = {', '.join(fitting)}"
    )


def _all_of(there: list[jax.Device], num_members: int) -> int:
    if there[0].platform != "cpu":
        return len(there)
    return max(n for n in range(1, len(there) + 1) if num_members % n == 0)


def _devices_per_member(num_members: int, devices: int) -> int:
    """0 where neither divides by the other."""
    if num_members % devices == 0:
        return 1
    return devices // num_members if devices % num_members == 0 else 0
