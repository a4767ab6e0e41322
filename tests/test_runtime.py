"""Settings of the process, and of the compiler."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from dreamer_jax import runtime as compiling
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


def test_options_of_the_compiler_are_those_that_it_knows(monkeypatch):
    options = compiling.compiler_options()
    program = jax.jit(jnp.matmul, compiler_options=options).lower(*[jnp.zeros((512, 512))] * 2)
    assert "ynn" not in program.compile().as_text()
    compiling._known.cache_clear()
    monkeypatch.setattr(compiling, "EIGEN", {"xla_cpu_no_such_option": ""})
    assert compiling.compiler_options() == {}
    compiling._known.cache_clear()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert compiling.compiler_options() == {}
