"""The reporter's state per member."""

import io
import json
from contextlib import ExitStack

import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_tiny_config

from dreamer_jax.agent.guard import COUNTED
from dreamer_jax.report.metrics_log import read_metrics
from dreamer_jax.report.progress import Progress
from dreamer_jax.run.reporter import Reporter
from dreamer_jax.run.workdir import WorkDir
from dreamer_jax.types import MetricVector


@pytest.fixture
def make_reporter(tmp_path):
    """Return a function that opens a reporter of two members, as often as a test resumes."""
    config = make_tiny_config(seeds=2)
    work = WorkDir(tmp_path)

    with ExitStack() as closing:

        def make(records=None, position=None, env_step=0):
            progress = Progress(config.steps, [0, 1], stream=io.StringIO())
            reporter = Reporter(config, work, progress, "catch")
            closing.callback(reporter.close)
            reporter.restore(records, position, env_step, 0)
            return reporter

        yield make


def metrics(*values):
    return MetricVector(jnp.array([[x, 1] for x in values], jnp.float32), ("loss", COUNTED))


def write(reporter, env_step):
    arrays = np.array([0, 2]), np.array([False, True])
    reporter.write(env_step, 1, [{}, {}], *arrays, [{}, {"kl_max": 0.5}])


def losses(work):
    return [row.get("loss") for row in read_metrics(work / "metrics.jsonl")]


def test_a_state_holds_a_record_per_member(make_reporter):
    reporter = make_reporter()
    nothing = {"sums": None, "frozen": False, "faults": 0}
    assert reporter.state() == [nothing, nothing]
    assert reporter.log_position() == {"offset": 0, "pending": []}
    write(reporter, 10)
    reporter.add(metrics(0.1, 2.0))
    reporter.add(metrics(0.2, 4.0))
    reporter.fault(10, 1, "environment 0", "broken")
    first, second = reporter.state()
    total = float(np.float32(0.1) + np.float32(0.2))
    assert first == {"sums": {"loss": total, COUNTED: 2.0}, "frozen": False, "faults": 0}
    assert second == {"sums": {"loss": 6.0, COUNTED: 2.0}, "frozen": True, "faults": 1}


def test_a_restored_reporter_writes_the_same_rows(make_reporter, tmp_path):
    reporter = make_reporter()
    write(reporter, 10)
    reporter.add(metrics(1.0, 2.0))
    state = json.loads(json.dumps([reporter.state(), reporter.log_position()]))
    reporter.add(metrics(5.0, 5.0))
    write(reporter, 20)
    reporter.close()
    resumed = make_reporter(*state, env_step=10)
    assert [resumed.state(), resumed.log_position()] == state
    resumed.add(metrics(5.0, 5.0))
    write(resumed, 20)
    assert losses(tmp_path) == [None, None, 3.0, 3.5]


def test_members_without_sums_count_as_zeros(make_reporter, tmp_path):
    """As in a join with a run that has just written its log line."""
    reporter = make_reporter()
    reporter.add(metrics(1.0, 2.0))
    first, second = reporter.state()
    resumed = make_reporter([second, first | {"sums": None}], reporter.log_position())
    resumed.add(metrics(4.0, 8.0))
    write(resumed, 10)
    assert losses(tmp_path) == [3.0, 8.0]
