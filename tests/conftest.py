"""Strictness and speed for the whole test run, and agents small enough to compile in seconds."""

import contextlib
import functools
import os
import signal
from pathlib import Path

import jax
import pytest

from dreamer_jax import config as config_lib
from dreamer_jax import runtime
from dreamer_jax.report.curves import draw_curves
from dreamer_jax.run import reporter as recorder

# Networks of one layer, for tests of what is around the networks.
SHALLOW = {
    network: {"layers": 1}
    for network in ("vector", "reward_head", "discount_head", "actor", "critic")
}

pytest_plugins = [
    "goldens",
    "killing",
    "member_runs",
    "sweep_files",
]  # fixtures that several files share

jax.config.update("jax_numpy_rank_promotion", "raise")
# Most programs run only a few times: they compile in half of the time without optimisations.
jax.config.update("jax_disable_most_optimizations", True)

# What `runtime.prepare` does is tested in processes of its own.
runtime.collect_rarely()
if "XLA_FLAGS" not in os.environ:  # set where a test wants several devices
    jax.config.update("jax_num_cpu_devices", 1)

# A test run in the background ignores Ctrl-C, and so would the processes that it starts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Compile each program once, in a cache that persists if JAX is given a directory for it.

    Every process of a parallel test run has its own: JAX does not write the files atomically.
    """
    given = jax.config.jax_compilation_cache_dir or tmp_path_factory.mktemp("jax_cache")
    directory = Path(given) / os.environ.get("PYTEST_XDIST_WORKER", "")
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)


@pytest.fixture(scope="session", autouse=True)
def few_panels():
    """Runs draw two panels of their curves, not all that they have."""
    with pytest.MonkeyPatch.context() as patch:
        two = functools.partial(draw_curves, keys=("train_return", "eval_return"))
        patch.setattr(recorder, "draw_curves", two)
        yield


@contextlib.contextmanager
def optimized_programs():
    """Compile with all optimisations, as users do."""
    name = "jax_disable_most_optimizations"
    jax.config.update(name, False)
    try:
        yield
    finally:
        jax.config.update(name, True)


@pytest.fixture
def as_shipped(monkeypatch):
    """Programs and pictures as users get them, not the cheaper ones of a test run."""
    monkeypatch.setattr(recorder, "draw_curves", draw_curves)
    with optimized_programs():
        yield


@pytest.fixture
def tiny_config():
    """A valid config whose networks compile in seconds."""
    return make_tiny_config()


def make_tiny_config(**changes):
    """Tiny networks and batches; `changes` are top-level keys or dicts of a group's keys."""
    config = config_lib.default_config()
    tiny = {
        "steps": 200,
        "prefill": 40,
        "train_every": 8,
        "batch": 3,
        "length": 6,
        "log_every": 40,
        "eval_every": 0,
        "eval_episodes": 2,
        "video_length": 8,  # a picture takes a second to write at full length
        "checkpoint_every": 50,
        "horizon": 4,
        "cnn_depth": 2,
        "rssm": {"stoch": 4, "classes": 5, "deter": 16, "hidden": 16},
        "vector": {"layers": 2, "units": 16},
        "grid": {"depth": 3, "units": 16, "layers": 1},
        "reward_head": {"layers": 2, "units": 16},
        "discount_head": {"layers": 2, "units": 16},
        "actor": {"layers": 2, "units": 16},
        "critic": {"layers": 2, "units": 16},
        "replay": {"sampling": "time", "capacity": 1000},
        "env": {"eval_workers": 0},  # a process takes a second to start
    }
    config.update(tiny)
    config.update(changes)
    return config
