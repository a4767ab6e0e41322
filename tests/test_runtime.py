"""Settings of the process."""

import os
import subprocess
import sys

import pytest

from dreamer_jax.runtime import count_cores

CHILD = """
import resource
from dreamer_jax.runtime import keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [bytearray(2**21) for _ in range(64)]
    del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if KEEP:
    keep_memory()
print(faults(), faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="an option of glibc")
@pytest.mark.parametrize("keep", [True, False])
def test_memory_that_was_freed_is_used_again(keep):
    child = CHILD.replace("KEEP", str(keep))
    output = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True)
    first, second = map(int, output.stdout.split())
    assert first > 10_000, output.stderr
    assert (second < first / 10) == keep


@pytest.mark.parametrize(
    ("told", "devices"),
    [
        ({}, count_cores()),
        ({"JAX_NUM_CPU_DEVICES": "3"}, 3),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}, 5),
    ],
)
def test_every_core_is_a_device_unless_jax_is_told_otherwise(told, devices):
    child = "import jax; from dreamer_jax import runtime; runtime.use_cores(); print(jax.devices())"
    env = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    output = subprocess.run(
        [sys.executable, "-c", child],
        env=env | told | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert output.stdout.count("CpuDevice") == devices, output.stderr
