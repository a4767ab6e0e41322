"""Benchmarks: clocks with times written by hand, rows of tiny agents."""

import itertools
import json
import threading

import jax
import numpy as np
import pytest
from conftest import make_tiny_config

from dreamer_jax.benchmark import device, suite, update
from dreamer_jax.benchmark.loop import DeviceClock, Interval, summarize
from dreamer_jax.benchmark.topology import TARGETS
from dreamer_jax.commands.benchmark import format_absent, format_plan, format_report
from dreamer_jax.errors import UsageError
from dreamer_jax.run.setup import build

ASKED = """config device jax members batch length conv compute_dtype compile_s ms_per_update ms_min
ms_max updates_per_s member_updates_per_s imagined_states_per_s flops_per_update flops_per_s
peak_fraction peak_bytes matmul_flops_per_s cpus date python jaxlib""".split()


def small_config():
    """Return a config of vectors and shallow networks, which compiles fastest."""
    head = {"layers": 1, "units": 8}
    heads = dict.fromkeys(("vector", "reward_head", "discount_head", "actor", "critic"), head)
    return make_tiny_config(task="gym:CartPole-v1", **heads)


class Pending:
    """A result that is ready once its event is set."""

    def __init__(self):
        self.event = threading.Event()

    def block_until_ready(self):
        self.event.wait(10)
        return self


def test_device_clock_starts_a_computation_when_the_one_before_ends():
    clock = DeviceClock(clock=itertools.count().__next__)
    results = [Pending(), Pending()]
    update = clock.watch("update", lambda result: (None, result), lambda outputs: outputs[1])
    for result in results:
        assert update(result) == (None, result)
    for result in results:
        result.event.set()
    clock.close()
    assert clock.intervals == [Interval("update", 0, 0, 2), Interval("update", 1, 2, 3)]


def test_device_clock_raises_what_a_computation_raised():
    class Broken:
        def block_until_ready(self):
            raise FloatingPointError("on the device")

    clock = DeviceClock()
    clock.watch("update", lambda: Broken(), lambda outputs: outputs)()
    with pytest.raises(FloatingPointError, match="on the device"):
        clock.close()


def test_learner_share():
    """From the end of the first update at 10 s to that of the last at 30 s.

    update   [0 .. 10]        [14 .. 20]          [23 .. 30]
    policy              [11 .. 13]       [20 .. 21]
    """
    intervals = [
        Interval("update", 0, 0, 10),
        Interval("policy", 11, 11, 13),
        Interval("update", 14, 14, 20),
        Interval("policy", 15, 20, 21),
        Interval("update", 23, 23, 30),
    ]
    summary = summarize(intervals, warmup=1, num_envs=6)
    assert summary == {
        "wall_s": 20,
        "learner_share": (6 + 7) / 20,
        "policy_share": 3 / 20,
        "updates_per_s": 2 / 20,
        "env_steps_per_s": 2 * 6 / 20,
        "policy_ms": 1500,
        "policy_latency_ms": 4000,  # of 2 and 6 s, which waited for an update
        "host_ms": 2000,
    }
    with pytest.raises(ValueError, match="3 updates are too few"):
        summarize(intervals, warmup=3, num_envs=6)


def test_time_calls_makes_short_calls_often():
    calls = []
    seconds = device.time_calls(lambda: calls.append(1), repeats=2, min_seconds=1e-3)
    assert len(seconds) == 2 and max(seconds) < 1e-3
    assert len(calls) > 10
    assert device.milliseconds([0.002, 0.001, 0.006]) == {
        "ms_per_update": 2.0,
        "ms_min": 1.0,
        "ms_max": 6.0,
    }


@pytest.mark.parametrize(
    ("kind", "float32", "bfloat16"),
    [
        ("Tesla V100-SXM2-16GB", 15.7e12, None),
        ("Tesla T4", 8.1e12, None),
        ("NVIDIA A100-SXM4-40GB", 156e12, 312e12),
        ("NVIDIA H100 80GB HBM3", 494.7e12, 989.4e12),
        ("NVIDIA H100 PCIe", 378e12, 756e12),
        ("NVIDIA H200", 494.7e12, 989.4e12),
        ("NVIDIA H200 MIG 1g.18gb", None, None),
        ("NVIDIA L4", 60e12, 121e12),
        ("NVIDIA L40S", None, None),
        ("NVIDIA GeForce RTX 4090", 82.6e12, 165.2e12),
        ("TPU v5 lite", 197e12, 197e12),
        ("TPU v5", 459e12, 459e12),
        ("cpu", None, None),
    ],
)
def test_published_peaks(kind, float32, bfloat16):
    assert device.published_peak(kind, "float32") == pytest.approx(float32)
    assert device.published_peak(kind, "bfloat16") == pytest.approx(bfloat16)


def test_matmul_rate_counts_a_product_and_a_sum_per_entry(monkeypatch):
    products = []

    def time_calls(call, **_):
        products.append(call())
        return [2.0, 0.5, 4.0]  # seconds, of which the least counts

    monkeypatch.setattr(device, "time_calls", time_calls)
    assert device.matmul_rate(256, repeats=1) == 4 * 256**3
    assert products[0].shape == (256, 256) and products[0].dtype == np.float32


def test_time_calls_interleaves_another_call():
    calls = []
    device.time_calls(
        lambda: calls.append("call"),
        repeats=2,
        min_seconds=0.0,
        between=lambda: calls.append("else"),
    )
    assert calls == ["call", "call", "else", "call", "else", "call"]


def test_members_that_fit():
    assert update.members_that_fit(10, 4, 22) == 4
    assert update.members_that_fit(10, 4, 21) == 3
    assert update.members_that_fit(10, 4, 10) == 1
    assert update.members_that_fit(10, 4, 9) == 0


def test_variants_are_every_combination_and_leave_the_config_alone():
    config = make_tiny_config(seeds=7)
    configs = suite.variants(
        config, members=[1, 3], convs=["lax", "matmul"], dtypes=["bfloat16"], batch=2, length=4
    )
    found = [(c.conv, len(c.seeds), c.batch, c.length, c.compute_dtype) for c in configs]
    rest = (2, 4, "bfloat16")
    assert found == [
        ("lax", 1, *rest), ("lax", 3, *rest), ("matmul", 1, *rest), ("matmul", 3, *rest)
    ]  # fmt: skip
    assert (config.seeds, config.batch, config.conv) == (7, 3, "auto")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"members": []}, r"members are \[\]"),
        ({"members": [1, 0]}, r"members are \[1, 0\]"),
        ({"members": [1], "convs": ["matmull"]}, "Did you mean 'matmul'"),
        ({"members": [1], "dtypes": ["float31"]}, "Did you mean 'float32'"),
        ({"members": [1], "batch": 0}, "config.batch is 0"),
        ({"members": [1], "length": 1}, "config.length is 1"),
    ],
)
def test_wrong_values_are_refused_before_anything_is_built(given, message):
    with pytest.raises(UsageError, match=message):
        suite.variants(make_tiny_config(), **given)


@pytest.mark.parametrize("given", [{"repeats": 0}, {"updates": 0}])
def test_nothing_to_measure(given):
    with pytest.raises(UsageError, match="at least 1"):
        next(suite.benchmark([make_tiny_config()], name="tiny", **given))


@pytest.mark.parametrize("synthetic", [False, True])
@pytest.mark.parametrize("task", ["catch", "gym:Pendulum-v1"])
def test_batches(task, synthetic):
    setup = build(make_tiny_config(task=task, seeds=2, env={"num_envs": 2}))
    batch = update.make_batch(setup, synthetic=synthetic)
    shapes = update.batch_shapes(setup)
    jax.tree.map(lambda x, s: np.testing.assert_equal((x.shape, x.dtype), (s.shape, s.dtype)),
                 batch, shapes)  # fmt: skip
    assert batch.is_first[:, :, 0].all()
    assert not np.array_equal(batch.action[0], batch.action[1])
    for obs in batch.obs.values():
        assert np.std(obs) > 0


@pytest.mark.slow
def test_rows(monkeypatch):
    monkeypatch.setattr(update, "matmul_rate", lambda repeats: 1e12)
    configs = suite.variants(small_config(), members=[1, 2])
    options = {"repeats": 1, "updates": 4, "parts": True, "loop": True}
    one, two = suite.benchmark(configs[:1], name="tiny", **options), suite.benchmark(
        configs[1:], name="tiny", repeats=2, synthetic=True
    )  # fmt: skip
    rows = json.loads(json.dumps([*one, *two]))
    for row in rows:
        assert set(ASKED) <= set(row) and row["error"] is None
        assert row["ms_min"] <= row["ms_per_update"] <= row["ms_max"]
        assert row["updates_per_s"] == pytest.approx(1e3 / row["ms_per_update"])
        # B = 3, L = 6, H = 4
        assert row["imagined_states_per_s"] == pytest.approx(72 * row["member_updates_per_s"])
        assert row["flops_per_s"] == pytest.approx(row["flops_per_update"] * row["updates_per_s"])
        assert row["peak_fraction"] == pytest.approx(row["flops_per_s"] / 1e12)
        assert row["peak_bytes"] > 1e5
    assert [row["members"] for row in rows] == [1, 2]
    assert rows[1]["flops_per_update"] == 2 * rows[0]["flops_per_update"]
    assert rows[1]["member_updates_per_s"] == pytest.approx(2 * rows[1]["updates_per_s"])
    assert rows[1]["peak_bytes"] > rows[0]["peak_bytes"]
    parts, loop = rows[0]["parts"], rows[0]["loop"]
    counted = {part["part"]: part["flops_per_update"] for part in parts}
    assert counted["world model"] + counted["behaviors"] == rows[0]["flops_per_update"]
    inside = [flops for part, flops in counted.items() if part.startswith("-")]
    assert sum(inside) == counted["world model"]
    assert all(part["ms_per_update"] > 0 for part in parts)
    assert 0 < loop["learner_share"] <= 1 - loop["policy_share"]
    assert loop["updates"] == 4 and loop["env_steps_per_s"] > loop["updates_per_s"]
    assert all(value is not None for value in loop.values())
    report = format_report(rows)
    assert "behaviors" in report and "learner %" in report
    assert report.splitlines()[2].split()[:3] == ["members", "batch", "length"]


def test_a_row_that_does_not_fit_says_so(monkeypatch):
    def too_large(setup):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 byte")

    monkeypatch.setattr(update, "compile_update", too_large)
    monkeypatch.setattr(update, "matmul_rate", lambda repeats: 1e12)
    rows = list(suite.benchmark([make_tiny_config()], name="tiny", parts=True, loop=True))
    assert rows[0]["error"] == "out of memory" and rows[0]["ms_per_update"] is None
    assert rows[0]["flops_per_update"] > 0
    assert "out of memory" in format_report(rows)


def test_a_plan_for_an_absent_device_that_does_not_fit_says_so(monkeypatch):
    def too_large(setup, options):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory on HBM")

    setup = build(make_tiny_config())
    monkeypatch.setattr(update, "compile_update", too_large)
    planned = update.plan_update(setup, TARGETS["v5e"])
    assert planned["error"] == "out of memory" and planned["launches"] is None
    assert planned["flops_per_update"] > 0
    table = format_absent([suite.describe(setup, "tiny") | planned])
    assert table.startswith("tiny on 1 cpu") and table.endswith("out of memory")

    monkeypatch.setattr(update, "compile_update", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        update.plan_update(setup, TARGETS["v5e"])


def broken(setup, options):
    raise jax.errors.JaxRuntimeError("INTERNAL: the compiler is broken")


@pytest.mark.slow
def test_plan_extrapolates_linearly():
    (row,) = suite.plan([small_config()], name="tiny")
    assert 0 < row["temp_bytes"] < row["bytes_one"] < row["bytes_limit"]
    fits = row["members_that_fit"]
    needed = row["bytes_one"] + (fits - 1) * row["bytes_per_member"]
    assert needed <= row["bytes_limit"] < needed + row["bytes_per_member"]
    assert str(fits) in format_plan([row])
