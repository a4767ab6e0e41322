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
from dreamer_jax.errors import UsageError
from dreamer_jax.runtime import count_cores, make_backend


def test_deterministic_operations_are_asked_of_xla_in_time(monkeypatch):
    flag = f"{runtime.DETERMINISTIC}=true"
    jax.devices()
    monkeypatch.setenv("XLA_FLAGS", "--xla_other=1")
    runtime.be_deterministic()  # too late, but on a CPU all operations are
    runtime.be_deterministic()
    assert os.environ["XLA_FLAGS"] == f"--xla_other=1 {flag}"
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    runtime.be_deterministic()
    monkeypatch.setenv("XLA_FLAGS", "--xla_other=1")
    with pytest.raises(UsageError, match=f"JAX has started without it; set XLA_FLAGS={flag}"):
        runtime.be_deterministic()


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


PREPARED = """
import jax
if EARLY: jax.numpy.zeros(1).block_until_ready()
import gc, dreamer_jax
from dreamer_jax.config.config import default_config
before = (gc.get_threshold(), jax.config.jax_compilation_cache_dir)
import dreamer_jax.run.trainer
assert before == (gc.get_threshold(), jax.config.jax_compilation_cache_dir)  # imports do nothing
from dreamer_jax import runtime
runtime.count_cores = lambda: 3
config = default_config()
config.task = "nothing:here"
try:
    dreamer_jax.dry_run(config)
except dreamer_jax.UsageError:
    print(jax.device_count(), gc.get_threshold()[0])
print(jax.config.jax_compilation_cache_dir)
"""


def prepared(early=False, **settings):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "JAX_", "XDG_"))}
    output = subprocess.run(
        [sys.executable, "-c", PREPARED.replace("EARLY", str(early))],
        env=env | {"JAX_PLATFORMS": "cpu", "HOME": "/home/of/nobody"} | settings,
        capture_output=True,
        text=True,
    )
    assert output.returncode == 0, output.stderr
    return output.stdout.split(), output.stderr


def test_a_script_gets_the_settings_of_the_command_line():
    found, errors = prepared(XDG_CACHE_HOME="")
    assert found == ["3", "100000", "/home/of/nobody/.cache/dreamer_jax"]
    assert "dreamer_jax.prepare" not in errors


@pytest.mark.slow
def test_a_script_that_started_jax_is_told_what_cannot_be_set():
    found, errors = prepared(early=True, XDG_CACHE_HOME="/cache")
    assert found == ["1", "100000", "/cache/dreamer_jax"]
    assert errors.count("keeps 1 of 3 CPU cores") == 1 and "dreamer_jax.prepare()" in errors


@pytest.mark.parametrize("given", [None, "", "relative/path"])
def test_the_cache_has_an_absolute_directory(monkeypatch, given):
    name, before = "jax_compilation_cache_dir", jax.config.jax_compilation_cache_dir
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if given is not None:
        monkeypatch.setenv("XDG_CACHE_HOME", given)
    try:
        jax.config.update(name, None)
        runtime.cache_compilations()
        assert jax.config.jax_compilation_cache_dir == str(Path.home() / ".cache" / "dreamer_jax")
    finally:
        jax.config.update(name, before)


@pytest.mark.slow
def test_threads_of_an_update_do_not_wait_for_each_other():
    # With one allocator for all threads they did, once a program had been compiled: 500 times in
    # an update of catch instead of 40.
    child = """
import resource
import jax
from dreamer_jax.benchmark.update import compile_update, make_batch
from dreamer_jax.configs import catch
from dreamer_jax.config.sweep import with_seeds
from dreamer_jax.run.setup import build
from dreamer_jax.runtime import prepare

prepare()
jax.config.update("jax_enable_compilation_cache", False)
setup = build(with_seeds(catch.get_config(), range(1)))
update, _ = compile_update(setup)
state, batch = setup.init_state(), make_batch(setup, synthetic=True)
counts = []
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    state, _ = update(state, batch)
    jax.block_until_ready(state)
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - before)
print(sorted(counts)[10])
"""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "JAX_"))}
    env |= {"JAX_PLATFORMS": "cpu"}
    output = subprocess.run([sys.executable, "-c", child], env=env, capture_output=True, text=True)
    assert output.returncode == 0, output.stderr
    assert int(output.stdout) < 200


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
