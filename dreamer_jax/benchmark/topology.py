"""Devices that are absent: compilers need only their description.

A GPU is described by its published properties in the text form of XLA's `GpuTargetConfigProto`, a
TPU by the name that libtpu gives its kind.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
from jax.experimental import topologies

from dreamer_jax.errors import UsageError

# Options of the compiler for devices on which it cannot time anything: without timings, it finds no
# kernel of its own for some float32 matmuls, and leaves all of them to cuBLAS.
OPTIONS = {"cuda": {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}}

# Compute capability 9.0. NVIDIA H100 and H200 data sheets, and the CUDA C++ Programming Guide's
# table of technical specifications.
_HOPPER = """
platform_name: "CUDA"
device_description_str: "{name}"
gpu_device_info {{
  name: "{name}"
  device_vendor: "NVIDIA Corporation"
  cuda_compute_capability {{ major: 9 feature_extension: ACCELERATED_FEATURES }}
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
{newer}  thread_dim_limit_x: 1024 thread_dim_limit_y: 1024 thread_dim_limit_z: 64
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  l2_cache_size: 52428800
  memory_bandwidth: {bandwidth}
  device_memory_size: {memory}
  device_address_bits: 64
  driver_version: "13.0.0" runtime_version: "12.8.0" compile_time_toolkit_version: "12.8.0"
  dnn_version: "9.10.0"
}}
"""


class Target(NamedTuple):
    """A kind of device to compile for."""

    extra: str  # of this package, which installs the compiler
    platform: str  # of JAX's plugin
    description: str  # of a GPU; the kind's name for a TPU
    chips: str  # the smallest topology that the compiler accepts
    kind: str  # the device's name in JAX
    memory: int  # bytes
    bandwidth: float  # bytes/s


# XLA asks for these as well since jax 0.12, and takes no unknown ones before.
_NEWER = """
  max_blocks_per_multiprocessor: 32
  reserved_shared_memory_per_block: 1024
"""


def _gpu(kind: str, memory: int, bandwidth: int) -> Target:
    text = _HOPPER.format(
        name=kind,
        memory=memory,
        bandwidth=bandwidth,
        newer=_NEWER if jax.__version_info__ >= (0, 12) else "\n",
    )
    return Target("plan-gpu", "cuda", text, "1x1", kind, memory, bandwidth)


# Memory and bandwidth: NVIDIA's data sheets; Google's 'System architecture' pages.
TARGETS = {
    "h100": _gpu("NVIDIA H100 80GB HBM3", 84_942_979_072, 3_352_320_000_000),
    "h200": _gpu("NVIDIA H200", 150_000_000_000, 4_800_000_000_000),
    "v5e": Target("plan-tpu", "tpu", "v5e", "2x2", "TPU v5 lite", 16 * 2**30, 819e9),
    "v6e": Target("plan-tpu", "tpu", "v6e", "2x2", "TPU v6 lite", 32 * 2**30, 1640e9),
}


def find_target(name: str) -> tuple[Target, str]:
    """Return the target of a name of `TARGETS` or a GPU's file, as 'h100:1x4', and its chips.

    Raises:
        UsageError: neither a target nor a file, or the chips are not two numbers.
    """
    name, _, chips = name.partition(":")
    if name in TARGETS:
        target = TARGETS[name]
    elif Path(name).is_file():
        target = _read_target(Path(name))
    else:
        raise UsageError(
            f"--topology is {name!r}; allowed: {', '.join(TARGETS)}, or the file of a GPU's "
            "GpuTargetConfigProto, each with chips as in h100:1x4"
        )
    numbers = (chips or target.chips).split("x")
    if len(numbers) != 2 or not all(n.isdecimal() and int(n) for n in numbers):
        raise UsageError(f"chips of --topology are {chips!r}; allowed: two numbers, as in h100:1x4")
    return target, chips or target.chips


def _read_target(path: Path) -> Target:
    """Read the description of a GPU."""
    text = path.read_text()
    values = dict(
        line.split(":", 1) for line in map(str.strip, text.splitlines()) if line.count(":") == 1
    )
    try:
        kind = values["device_description_str"].strip().strip('"')
        memory, bandwidth = int(values["device_memory_size"]), int(values["memory_bandwidth"])
    except (KeyError, ValueError) as error:
        raise UsageError(
            f"{path} is no GpuTargetConfigProto with device_description_str, device_memory_size "
            f"and memory_bandwidth on lines of their own: {error}"
        ) from error
    return Target("plan-gpu", "cuda", text, "1x1", kind, memory, bandwidth)


def absent_devices(target: Target, chips: str) -> Sequence[jax.Device]:
    """Return devices that programs can be compiled for, but not run on.

    Raises:
        UsageError: the compiler is not installed, or does not know the topology.
    """
    if target.platform == "tpu":
        os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
        os.environ.setdefault("TPU_ACCELERATOR_TYPE", f"{target.description}-1")
        call = {"topology_name": f"{target.description}:{chips}x1", "platform": "tpu"}
    else:
        call = {"topology_name": "", "platform": "cuda", "topology": f"1x{chips}"}
        call["target_config"] = target.description
    try:
        return topologies.get_topology_desc(**call).devices
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise UsageError(
            f"cannot compile for {target.kind} ({chips} chips); "
            f"pip install 'dreamer-jax[{target.extra}]' installs the compiler: {error}"
        ) from error
