"""Train in processes that are killed, and compare what runs leave behind."""

import base64
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from conftest import SHALLOW, make_tiny_config
from env_copies import as_bytes, outcomes

from dreamer_jax import config as config_lib
from dreamer_jax import train
from dreamer_jax.envs import make_env as make_environment
from dreamer_jax.envs.vector.snapshot import restore
from dreamer_jax.replay.layout import Layout
from dreamer_jax.replay.ring import HIGH_WATER_FILE, LAYOUT_FILE, entry_name
from dreamer_jax.report.metrics_log import read_metrics
from dreamer_jax.run.load import read_checkpoint
from dreamer_jax.run.setup import build
from dreamer_jax.run.workdir import WorkDir

CHILD = """
import pkgutil, sys
from dreamer_jax import train
from dreamer_jax import config
make_env = pkgutil.resolve_name(sys.argv[3]) if len(sys.argv) > 3 else None
with open(sys.argv[1]) as file:
    print(train(config.from_json(file.read()), sys.argv[2], make_env=make_env))
"""
PATIENCE = 400  # seconds to wait for anything


def catch_config(**changes):
    """Two members of catch for 300 steps, saved every 20."""
    tiny = {"seeds": 2, "length": 8, "steps": 300, "checkpoint_every": 20, "eval_every": 100}
    return make_tiny_config(**tiny | SHALLOW | changes)


@pytest.fixture(scope="session")
def catch_run(tmp_path_factory):
    """The work directory of an undisturbed run of `catch_config`; read only."""
    workdir = tmp_path_factory.mktemp("runs") / "catch"
    train(catch_config(), workdir)
    return workdir


class Run:
    """A process that trains a config in a work directory; killed after the `with` block.

    Args:
        make_env: a function in a module of these tests, as 'levers:make_levers'.
    """

    def __init__(self, config, workdir, make_env=None):
        self.work = WorkDir(workdir)
        file = Path(f"{workdir}.config.json")
        file.write_text(config_lib.to_json(config))
        self.output = Path(f"{workdir}.log")
        with open(self.output, "a") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", CHILD, str(file), str(workdir), *filter(None, [make_env])],
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ
                | compilation_variables()
                | {"PYTHONPATH": os.pathsep.join(sys.path)},
            )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.process.kill()
        self.process.wait()

    def records(self):
        """Return the number of records written to the first stream of the replay."""
        ring = self.work.replay / "0"
        if not (ring / LAYOUT_FILE).exists():  # the other files may still be empty
            return 0
        return int(np.fromfile(ring / HIGH_WATER_FILE, np.int64)[0])

    def saves(self):
        """Return whether a checkpoint is being written."""
        return any(self.work.checkpoints.glob("*.orbax-checkpoint-tmp*"))

    def wait_until(self, condition):
        """Wait for a condition; return False if the process ended first."""
        end = time.monotonic() + PATIENCE
        while self.process.poll() is None:
            if condition():
                return True
            assert time.monotonic() < end, self.text()
            time.sleep(0.001)
        return False

    def signal(self, number):
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)

    def kill(self):
        assert self.signal(signal.SIGKILL) == -signal.SIGKILL

    def finish(self):
        """Wait for the run to finish."""
        status = self.process.wait(PATIENCE)
        assert status == 0, self.text()
        return status

    def text(self):
        """Return what the processes on this work directory have printed."""
        return self.output.read_text()


def compilation_variables():
    """Return variables that make a process import and compile as this one, with its cache."""
    return {
        "JAX_DISABLE_MOST_OPTIMIZATIONS": str(jax.config.read("jax_disable_most_optimizations")),
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_COMPILATION_CACHE_DIR": jax.config.jax_compilation_cache_dir,
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),  # modules of these tests
    }


def rows(workdir):
    """Read metrics.jsonl without the rates, which depend on the clock."""
    found = read_metrics(WorkDir(workdir).metrics)
    return [{k: v for k, v in row.items() if not k.endswith("_per_s")} for row in found]


def newest(workdir, make_env=None):
    """Read arrays and host data of the newest checkpoint."""
    work = WorkDir(workdir)
    shapes = build(work.read_config(), make_env).saved_shapes()
    arrays, host = read_checkpoint(work, shapes)
    return jax.tree.map(to_numpy, arrays), host


def to_numpy(leaf):
    """Return an array, or the data of random keys."""
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(leaf) if is_key else leaf)


def continuations(host, make_env):
    """Take the environments out of a checkpoint, and return what they do in twenty steps.

    The bytes of a pickled environment depend on which of its equal objects are the same.
    """
    seen = []
    for member in host["members"]:
        for row in member["driver"]["rows"]:
            data, obs, is_open = pickle.loads(base64.b64decode(row.pop("environment")))
            env = restore(make_environment(make_env, 0), data)
            actions = np.random.default_rng(0).integers(env.action_space.nvec, size=(20, 2))
            seen.append((as_bytes(obs), is_open, outcomes(env, actions)))
    return seen


def live_records(workdir, host):
    """Read the live records of every stream by key, member and environment, oldest first."""
    found = {}
    for number, member in enumerate(host["members"]):
        directory = WorkDir(workdir).replay / str(number)
        layout = Layout.from_json((directory / LAYOUT_FILE).read_text())
        for key, (record, dtype) in layout.entries.items():
            shape = (layout.envs, layout.slots, *record)
            array = np.memmap(directory / entry_name(key), dtype, "r", shape=shape)
            for env, written in enumerate(member["replay"]["written"]):
                live = np.arange(max(0, written - layout.capacity), written)
                found[key, number, env] = np.array(array[env, live % layout.slots])
    return found


def assert_same_run(workdir, reference, make_env=None):
    """Assert that two runs have left the same, bit for bit, times aside."""
    assert rows(workdir) == rows(reference)
    (arrays, host), (expected, expected_host) = (newest(w, make_env) for w in (workdir, reference))
    paths = jax.tree_util.tree_leaves_with_path(expected)
    assert len(paths) > 50
    for (path, leaf), found in zip(paths, jax.tree.leaves(arrays), strict=True):
        assert np.array_equal(found, leaf), jax.tree_util.keystr(path)
    # The log's position differs: lines hold rates, whose digits depend on the clock.
    host, expected_host = host | {"log": None}, expected_host | {"log": None}
    if make_env is not None:
        assert continuations(host, make_env) == continuations(expected_host, make_env)
    assert host == expected_host
    records, expected_records = live_records(workdir, host), live_records(reference, expected_host)
    assert records.keys() == expected_records.keys()
    for key, array in expected_records.items():
        assert np.array_equal(records[key], array), key
        assert array.shape[0] > 100
