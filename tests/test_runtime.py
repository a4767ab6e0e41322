"""Settings of the process, and choices by backend."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from dreamer_jax import runtime
from dreamer_jax.runtime import count_cores, make_backend

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
    ("settings", "devices"),
    [
        ({}, count_cores()),
        ({"JAX_NUM_CPU_DEVICES": "3"}, 3),
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=5"}, 5),
    ],
)
def test_every_core_is_a_device_unless_a_number_is_set(settings, devices):
    child = "import jax; from dreamer_jax import runtime; runtime.use_cores(); print(jax.devices())"
    env = {k: v for k, v in os.environ.items() if k not in ("XLA_FLAGS", "JAX_NUM_CPU_DEVICES")}
    output = subprocess.run(
        [sys.executable, "-c", child],
        env=env | settings | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert output.stdout.count("CpuDevice") == devices, output.stderr


def test_compiler_options_are_those_that_xla_knows(monkeypatch):
    options = dict(make_backend("cpu").compiler_options)
    program = jax.jit(jnp.matmul, compiler_options=options).lower(*[jnp.zeros((512, 512))] * 2)
    assert "ynn" not in program.compile().as_text()
    runtime._known_options.cache_clear()
    monkeypatch.setattr(runtime, "EIGEN", {"xla_cpu_no_such_option": ""})
    assert make_backend("cpu").compiler_options == {}
    runtime._known_options.cache_clear()


def test_a_backend_is_made_for_a_device_or_a_platform():
    device = SimpleNamespace(platform="gpu")
    assert make_backend("cuda") == make_backend("gpu") == make_backend(device)
    assert make_backend() == make_backend(jax.devices()[0])
    for platform, together in {"cpu": False, "gpu": True, "tpu": True}.items():
        backend = make_backend(platform)
        assert backend.platform == platform and backend.map_members_together == together
        assert bool(backend.compiler_options) == (platform == "cpu")


def test_only_the_runtime_asks_for_the_default_backend():
    package = Path(runtime.__file__).parent
    callers = [p for p in package.rglob("*.py") if "default_backend" in p.read_text()]
    assert callers == [Path(runtime.__file__)]
