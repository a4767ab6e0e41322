"""Members on several devices: their placement, and the same numbers as on one device."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
from conftest import make_tiny_config

from dreamer_jax import config as config_lib
from dreamer_jax import dry_run
from dreamer_jax.agent.placement import Placement, one_device, place
from dreamer_jax.errors import UsageError

TESTS = Path(__file__).parents[1]


@pytest.fixture
def eight(monkeypatch):
    """Pretend to have eight CPU devices; nothing can be put on them."""
    device = jax.local_devices()[0]
    monkeypatch.setattr(jax, "local_devices", lambda: [device] * 8)


@pytest.fixture
def eight_accelerators(monkeypatch):
    device = SimpleNamespace(platform="gpu")
    monkeypatch.setattr(jax, "local_devices", lambda: [device] * 8)


@pytest.mark.parametrize(
    ("members", "batch", "devices", "count", "data"),
    [
        (8, 3, 0, 8, 1),
        (16, 3, 0, 8, 1),
        (2, 4, 0, 8, 4),
        (1, 50, 5, 5, 5),
        (5, 50, 5, 5, 1),
        (10, 50, 5, 5, 1),
        (3, 7, 1, 1, 1),
        (3, 4, 6, 6, 2),
    ],
)
def test_members_then_sequences_are_spread(
    eight_accelerators, members, batch, devices, count, data
):
    placement = place(members, batch, devices)
    assert (len(placement.devices), placement.data) == (count, data)


@pytest.mark.parametrize(
    ("members", "batch", "devices", "message"),
    [
        (3, 50, 0, "is 0, that is 8 of 8, but 3 members do not divide .* = 1, 3, 6$"),
        (5, 50, 2, "5 members do not divide over 2 devices, nor devices .* config.devices = 1, 5$"),
        (2, 6, 8, "config.batch = 6 sequences do not divide over the 4 devices .* 1, 2, 4, 6$"),
        (1, 1, 0, "config.batch = 1 .* over the 8 devices of each member; .* config.devices = 1$"),
        (8, 50, 9, "config.devices is 9; allowed: 0 for all, or at most the 8 devices"),
    ],
)
def test_what_cannot_be_spread_is_explained(eight_accelerators, members, batch, devices, message):
    with pytest.raises(UsageError, match=message):
        place(members, batch, devices)


@pytest.mark.parametrize(("members", "count"), [(1, 1), (3, 3), (8, 8), (10, 5), (11, 1), (24, 8)])
def test_every_core_of_a_cpu_has_members_of_its_own(eight, members, count):
    assert place(members, 50, 0) == Placement((jax.local_devices()[0],) * count)


def test_a_run_that_cannot_be_spread_is_refused_before_it_is_built(eight, tmp_path):
    with pytest.raises(UsageError, match="3 members do not divide over 8 devices"):
        dry_run(make_tiny_config(seeds=3, devices=8))
    assert dry_run(make_tiny_config(seeds=3, devices=3))["devices"] == 3


def test_one_device_needs_no_mesh():
    placement = one_device()
    assert placement.mesh is None
    assert placement.by_member == placement.by_sequence
    assert placement.by_member.device_set == {jax.local_devices()[0]}
    assert placement == place(3, 7, 1)


def test_a_run_may_resume_on_other_devices():
    old, new = config_lib.default_config(), config_lib.default_config()
    new.devices = 4
    assert config_lib.differences(old, new) == []


def on_eight_devices(script, *arguments):
    """Run a script in a process of 8 virtual devices and return the JSON object that it prints."""
    done = subprocess.run(
        [sys.executable, TESTS / script, *map(str, arguments)],
        env=os.environ
        | {
            "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join([str(TESTS.parent), os.environ.get("PYTHONPATH", "")]),
        },
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check_numbers(result, tolerance):
    assert result["moved"] > 1e-4
    gaps = result["gaps"]
    assert gaps["first"] == gaps["keys"] == gaps["actions"] == 0
    assert gaps["params"] <= tolerance and gaps["metrics"] <= 10 * tolerance, gaps
    assert result["devices"] == 8 and result["state_devices"] == [8]
    assert result["donated"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("members", "tolerance", "per_device", "shard", "communicates"),
    [
        (8, 1e-6, 1, [1, 4, 6], False),
        (16, 1e-6, 2, [2, 4, 6], False),
        (2, 1e-5, 1, [1, 1, 6], True),  # four devices share the sequences of a member's batch
    ],
)
def test_members_on_eight_devices(members, tolerance, per_device, shard, communicates):
    result = on_eight_devices("on_devices.py", members, 8)
    check_numbers(result, tolerance)
    assert result["members_per_device"] == [per_device]
    assert result["batch_shard"] == shard
    assert (result["collectives"] > 0) == communicates


@pytest.mark.slow
def test_a_run_moves_from_one_device_to_eight_to_two(tmp_path):
    result = on_eight_devices("resume_on_devices.py", tmp_path)
    assert len(result["one"]) == len(result["many"]) == 2 * (7 + 3)
    for one, many in zip(result["one"], result["many"], strict=True):
        assert many == pytest.approx(one, rel=1e-3, abs=1e-4)
    assert [record["seed"] for record in result["final"]] == [0, 1]
    assert result["evaluated"] == result["final"][1:]
    assert result["loaded"] == 1
    assert result["videos"] == 2 * 2
