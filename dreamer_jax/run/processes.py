"""Several processes that train one run, each the members of its own devices.

Members never communicate, and so every process steps, stores and trains its own as if it were
alone. What the processes agree on (when to stop and to save) and what the first one writes for all
(metrics, summaries) is small, and passes through the key-value store of `jax.distributed`.
Checkpoints are written by all of them, as arrays of all members.
"""

import contextlib
import importlib.util
import itertools
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax._src import distributed  # JAX has no public name for the key-value store's client
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from dreamer_jax.agent.placement import DATA, MEMBER, Placement
from dreamer_jax.errors import ProcessFailed, UsageError
from dreamer_jax.run.signals import Stopped

T = TypeVar("T")
CONNECT_SECONDS = 300.0  # for the nodes of a cluster to start
_KEYS = "dreamer_jax"  # prefix of the messages' keys
POLL_MS = 1000  # after which a waiting process looks for failures, and Python for signals
# What each kind of cluster sets in the processes that it starts, so that JAX can detect them.
CLUSTERS = {
    "slurm": (
        "SLURM_JOB_ID",
        "SLURM_STEP_NODELIST",
        "SLURM_STEP_NUM_NODES",
        "SLURM_NTASKS",
        "SLURM_PROCID",
        "SLURM_LOCALID",
    ),
    "k8s": ("KUBERNETES_SERVICE_HOST", "HOSTNAME", "JOB_COMPLETION_INDEX"),
}
ADVICE = {
    "slurm": "start the processes with srun",
    "k8s": "they are set in the pods of a job with completionMode: Indexed",
}


class Processes:
    """The processes of a run, as seen by one of them.

    Every process must call `exchange` and `stop` in the same order.
    """

    def __init__(self, index: int = 0, count: int = 1):
        self.index, self.count = index, count
        self._numbers = {channel: itertools.count() for channel in ("run", "saves")}

    @property
    def first(self) -> bool:
        """True for the process that writes the files of the whole run."""
        return self.index == 0

    def share(self, members: int) -> range:
        """Return the numbers of the members of this process.

        Raises:
            UsageError: the members do not divide over the processes.
        """
        each, rest = divmod(members, self.count)
        if rest:
            fitting = [n for n in range(1, members + 1) if members % n == 0]
            raise UsageError(
                f"{members} members do not divide over {self.count} processes; allowed: "
                f"{', '.join(map(str, fitting))} processes"
            )
        return range(self.index * each, (self.index + 1) * each)

    def exchange(self, value: T, channel: str = "run") -> list[T]:
        """Return the values of all processes, in order.

        Args:
            value: JSON data.
            channel: 'run', or 'saves' for the thread that completes checkpoints.

        Raises:
            ProcessFailed: another process has failed.
            Stopped: another process has called `stop`.
        """
        if self.count == 1:
            return [value]
        return self._exchange({"value": value}, channel)

    def any(self, value: bool) -> bool:
        """Return whether the value is true in any process."""
        return any(self.exchange(bool(value)))

    def stop(self) -> None:
        """Raise Stopped here, and where the others exchange values next."""
        if self.count > 1:
            self._exchange({"stopped": True}, "run")
        raise Stopped

    @contextlib.contextmanager
    def failing_together(self) -> Iterator[None]:
        """Tell the others of an exception in the block, so that they do not wait for this one."""
        try:
            yield
        except ProcessFailed:
            raise
        except BaseException as error:
            if self.count > 1:
                text = f"{type(error).__name__}: {error}"
                with contextlib.suppress(jax.errors.JaxRuntimeError):
                    _client().key_value_set(f"{_KEYS}/failed/{self.index}", text)
            raise

    def _exchange(self, message: dict[str, Any], channel: str) -> list:
        number = next(self._numbers[channel])
        own = f"{_KEYS}/{channel}/{number}"
        _client().key_value_set(f"{own}/{self.index}", json.dumps(message))
        messages = [json.loads(self._wait(f"{own}/{index}")) for index in range(self.count)]
        # Whoever has posted this message has read those before.
        _client().key_value_delete(f"{_KEYS}/{channel}/{number - 1}/{self.index}")
        if any("stopped" in entry for entry in messages):
            raise Stopped
        return [entry["value"] for entry in messages]

    def _wait(self, key: str) -> str:
        while True:
            try:
                return _client().blocking_key_value_get(key, POLL_MS)
            except jax.errors.JaxRuntimeError as error:
                if "DEADLINE_EXCEEDED" not in str(error):
                    raise
            for name, text in _client().key_value_dir_get(f"{_KEYS}/failed/"):
                raise ProcessFailed(f"process {name.rpartition('/')[2]} has failed: {text}")


ALONE = Processes()


def current() -> Processes:
    """Return the processes that `connect`, or `jax.distributed.initialize`, has connected."""
    if not jax.distributed.is_initialized():
        return ALONE
    return _connected(jax.process_index(), jax.process_count())


def connect(coordinator: str, count: int | None = None, index: int | None = None) -> None:
    """Connect the processes of a run; call it in each of them before JAX starts.

    Args:
        coordinator: host:port of the first process; or 'slurm' or 'k8s', to read everything from
            the variables that SLURM or Kubernetes sets.
        count: number of processes.
        index: number of this process, from 0.

    Raises:
        UsageError: an argument or a variable is missing, or the first process cannot be reached.
    """
    if coordinator in CLUSTERS:
        _check_cluster(coordinator, count, index)
        # By default JAX gives a SLURM task one device; alone on its node, it should have all.
        whole_node = coordinator == "k8s" or (
            os.environ["SLURM_NTASKS"] == os.environ["SLURM_STEP_NUM_NODES"]
        )
        arguments = {"cluster_detection_method": coordinator}
        arguments["local_device_ids"] = [] if whole_node else None
    else:
        _check_arguments(coordinator, count, index)
        # Where this fails, JAX itself would end the process without a message for users.
        if index:
            _wait_for_port(coordinator)
        else:
            _check_port(coordinator)
        arguments = {"coordinator_address": coordinator, "num_processes": count}
        arguments |= {"process_id": index, "cluster_detection_method": "deactivate"}
    try:
        jax.distributed.initialize(**arguments, initialization_timeout=int(CONNECT_SECONDS))
    except (RuntimeError, ValueError) as error:
        raise UsageError(f"--coordinator is {coordinator}: {error}") from error


def gathered(tree: T, placement: Placement, processes: Processes) -> T:
    """Return arrays of this process's members [K, ...] as arrays of all members [M, ...]."""
    if processes.count == 1:
        return tree
    sharding = all_members(placement, processes)

    def gather(x: jax.Array) -> jax.Array:
        shape = (len(x) * processes.count, *x.shape[1:])
        return jax.make_array_from_single_device_arrays(shape, sharding, _shards(x))

    return jax.tree.map(gather, tree)


def own_members(tree: T, placement: Placement, processes: Processes) -> T:
    """Return the part of arrays of all members that is of this process's members."""
    if processes.count == 1:
        return tree

    def own(x: jax.Array) -> jax.Array:
        shape = (len(x) // processes.count, *x.shape[1:])
        return jax.make_array_from_single_device_arrays(shape, placement.by_member, _shards(x))

    return jax.tree.map(own, tree)


def all_members(placement: Placement, processes: Processes) -> Sharding:
    """Return the sharding of arrays [M, ...] over the devices of all processes."""
    if processes.count == 1:
        return placement.by_member
    devices: dict[int, list] = {}
    for device in jax.devices():
        devices.setdefault(device.process_index, []).append(device)
    used = [devices[process][: len(placement.devices)] for process in sorted(devices)]
    if len({len(some) for some in used}) > 1:
        raise UsageError(
            f"the processes have {[len(devices[p]) for p in sorted(devices)]} devices; allowed: "
            "the same number in each, or a config.devices that all of them have"
        )
    mesh = Mesh(np.array(used).reshape(-1, placement.data), (MEMBER, DATA))
    return NamedSharding(mesh, PartitionSpec(MEMBER))


def joined(lists: Sequence[list[T]]) -> list[T]:
    """Return one list of the members of all processes."""
    return [entry for some in lists for entry in some]


_of_process: dict[tuple[int, int], Processes] = {}


def _connected(index: int, count: int) -> Processes:
    # One for the whole process: the numbers of its messages go on from run to run.
    return _of_process.setdefault((index, count), Processes(index, count))


def _client() -> Any:
    return distributed.global_state.client


def _shards(x: jax.Array) -> list[jax.Array]:
    return [shard.data for shard in x.addressable_shards]


def _check_cluster(cluster: str, count: int | None, index: int | None) -> None:
    if (count, index) != (None, None):
        raise UsageError(
            f"--coordinator={cluster} reads the number of processes from variables; "
            "--num_processes and --process_id are for --coordinator=host:port"
        )
    missing = [name for name in CLUSTERS[cluster] if not os.environ.get(name)]
    if missing:
        raise UsageError(
            f"--coordinator is {cluster}, but these variables are not set: {', '.join(missing)}; "
            f"{ADVICE[cluster]}, or give host:port, --num_processes and --process_id"
        )
    if cluster == "k8s" and importlib.util.find_spec("kubernetes") is None:
        raise UsageError("--coordinator is k8s: the package is not installed: pip install jax[k8s]")


def _check_arguments(coordinator: str, count: int | None, index: int | None) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal():
        raise UsageError(
            f"--coordinator is {coordinator!r}; allowed: host:port, {', '.join(CLUSTERS)}"
        )
    given = {"--num_processes": count, "--process_id": index}
    missing = [name for name, value in given.items() if value is None]
    if missing:
        raise UsageError(f"--coordinator={coordinator} needs {' and '.join(missing)}")
    if not 0 <= index < count:
        raise UsageError(f"--process_id is {index}; allowed: from 0 to {count - 1}")


def _check_port(coordinator: str) -> None:
    """Raise UsageError if this process cannot listen where the others will look for it."""
    port = coordinator.rpartition(":")[2]
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            free.bind(("", int(port)))
        except (OSError, OverflowError) as error:
            raise UsageError(
                f"--coordinator is {coordinator}, but this process cannot listen at port {port}: "
                f"{error}"
            ) from error


def _wait_for_port(coordinator: str) -> None:
    """Wait until the first process listens."""
    host, _, port = coordinator.rpartition(":")
    end = time.monotonic() + CONNECT_SECONDS
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=10.0).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise UsageError(
                    f"--coordinator is {coordinator}, where no first process could be reached "
                    f"for {CONNECT_SECONDS:g} s: {error}"
                ) from error
        time.sleep(0.2)
