"""Programs compiled for absent devices: their sizes, and what is refused."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from dreamer_jax.benchmark.topology import TARGETS, find_target
from dreamer_jax.errors import UsageError


def test_targets_and_chips():
    assert find_target("h100") == (TARGETS["h100"], "1x1")
    assert find_target("v5e:4x4") == (TARGETS["v5e"], "4x4")


def test_a_gpu_described_in_a_file(tmp_path):
    path = tmp_path / "gpu.txtpb"
    path.write_text(TARGETS["h200"].description)
    target, chips = find_target(f"{path}:1x8")
    assert target == TARGETS["h200"] and chips == "1x8"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("h1000", "'h1000'; allowed: h100, h200, v5e, v6e, or the file"),
        ("h100:4", "chips of --topology are '4'; allowed: two numbers"),
        ("v5e:0x2", "chips of --topology are '0x2'"),
    ],
)
def test_unknown_topologies_are_refused(name, message):
    with pytest.raises(UsageError, match=message):
        find_target(name)


def test_a_file_that_describes_no_gpu_is_refused(tmp_path):
    (tmp_path / "gpu.txtpb").write_text('device_description_str: "X"\n')
    with pytest.raises(UsageError, match="no GpuTargetConfigProto.*device_memory_size"):
        find_target(str(tmp_path / "gpu.txtpb"))


# Compiled in a process of its own: the plugin's compiler must be chosen before JAX starts.
PLAN = """
import json, sys
import jax
jax.config.update("jax_platforms", "cpu")
from dreamer_jax.benchmark import suite
from dreamer_jax.configs import atari
config = atari.get_config(sys.argv[2])
config.compute_dtype = "bfloat16"
configs = suite.variants(config, members=[int(sys.argv[3])], batch=int(sys.argv[4]))
print(json.dumps(next(suite.plan_absent(configs, name="pong", topology=sys.argv[1]))))
"""


DEVICE_LOOP = """
import json, sys
import jax
jax.config.update("jax_platforms", "cpu")
from dreamer_jax.agent.placement import Placement
from dreamer_jax.benchmark.topology import OPTIONS, absent_devices, find_target
from dreamer_jax.configs import get_config
from dreamer_jax.run.setup import build
target, chips = find_target(sys.argv[1])
config = get_config("catch", "debug")
config.loop, config.replay.capacity = "device", 5_000
setup = build(config, None, Placement(tuple(absent_devices(target, chips)[:1])))
lowered = setup.device_loop.lower(setup.saved_shapes())
memory = lowered.compile(compiler_options=OPTIONS.get(target.platform)).memory_analysis()
names = "argument_size_in_bytes", "alias_size_in_bytes", "temp_size_in_bytes"
print(json.dumps({name: getattr(memory, name) for name in names}))
"""


def plan(topology, variant, members, batch):
    return run(PLAN, topology, variant, members, batch)


def run(program, *args):
    """Return the JSON that a program prints at its end."""
    # A CUDA toolkit on the machine must not stand in for the installed compiler.
    hidden = {"PATH": os.path.dirname(sys.executable) + ":/usr/bin:/bin", "CUDA_HOME": "/nowhere"}
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, args)],
        env=os.environ | hidden,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def needs(package, extra):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"the extra {extra} is not installed")


@pytest.mark.slow
@needs("jax_cuda12_plugin", "plan-gpu")
def test_an_update_on_an_h100():
    """At the authors' batch, one member at full size."""
    row = plan("h100", "pong", 1, 16)
    # The compiler may compute once what the trace has twice, and may add products with padding.
    assert 0.98 < row["compiled_flops"] / row["flops_per_update"] < 1.1
    assert row["launches"] < 2_000 and row["collectives"] == 0
    assert row["temp_bytes"] < 1.3 * 2**30
    assert row["members"] == 1 and row["conv"] == "matmul"


@pytest.mark.slow
@needs("libtpu", "plan-tpu")
def test_an_update_on_a_tpu():
    """Two tiny members, mapped together."""
    row = plan("v5e", "pong,debug", 2, 4)
    assert 0.98 < row["compiled_flops"] / row["flops_per_update"] < 1.1
    assert row["collectives"] == 0 and row["conv"] == "lax" and row["members"] == 2


@pytest.mark.slow
@needs("libtpu", "plan-tpu")
def test_the_loop_on_the_device_compiles_for_a_tpu():
    """Environments, replay and updates in one program, whose results take its arguments' place."""
    memory = run(DEVICE_LOOP, "v5e")
    images = 2 * 5_000 * 64 * 64  # of two members
    assert memory["argument_size_in_bytes"] > images > memory["temp_size_in_bytes"]
    assert memory["alias_size_in_bytes"] > 0.99 * memory["argument_size_in_bytes"]
