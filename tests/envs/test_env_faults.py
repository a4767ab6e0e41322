"""Tests of environments that raise, hang or end their process, in plain vectors."""

import functools
import os
import signal
import time

import gymnasium
import numpy as np
import pytest
from env_doubles import (
    EXIT,
    HANG,
    KILL,
    NAN,
    NOTHING,
    ORPHAN,
    RAISE,
    SLOW,
    exits,
    puppet,
    reset_rows,
    step_rows,
)
from gymnasium import spaces

from dreamer_jax.envs import make_env
from dreamer_jax.envs.vector import process as process_module
from dreamer_jax.envs.vector.process import ProcessVector
from dreamer_jax.envs.vector.vector import LocalVector, rows_of
from dreamer_jax.envs.wrappers import adapt

CALM = [NOTHING] * 4
TIMEOUT = 0.7  # seconds


def replace_all(vector, **settings):
    """Build four new puppets in a vector, as if the vector was new."""
    vector.replace({row: puppet(row, **settings) for row in range(4)})
    vector.reset()
    return vector


@pytest.fixture(scope="module")
def shared():
    vector = ProcessVector([puppet(row) for row in range(4)], 2, timeout=TIMEOUT)
    yield vector
    pids = [worker.process.pid for worker in vector._workers]
    vector.close()
    assert all(exits(pid) for pid in pids)


@pytest.fixture
def processes(shared):
    """Rows 0 and 1 in one worker, 2 and 3 in another."""
    return replace_all(shared)


@pytest.fixture
def local():
    vector = replace_all(LocalVector([puppet(row) for row in range(4)]))
    yield vector
    vector.close()


@pytest.fixture(params=["local", "processes"])
def vector(request):
    return request.getfixturevalue(request.param)


def assert_rows_equal(result, expected, rows):
    np.testing.assert_array_equal(result.obs["vector"][rows], expected.obs["vector"][rows])
    for name in ("reward", "is_last", "is_terminal", "failed"):
        np.testing.assert_array_equal(getattr(result, name)[rows], getattr(expected, name)[rows])


def test_rows_that_raise_fail_alone(vector, local):
    reference = LocalVector([puppet(row) for row in range(4)])
    reference.reset()
    before = step_rows(vector, CALM)
    reference.step(CALM)
    result, faults = vector.step([NOTHING, RAISE, NOTHING, NAN])
    assert [fault.rows for fault in faults] == [(1,), (3,)]
    assert "LookupError: the puppet is broken" in faults[0].text
    assert "reward must be a finite number, not nan" in faults[1].text
    assert_rows_equal(result, step_rows(reference, CALM), [0, 2])
    assert result.failed.tolist() == [False, True, False, True]
    assert result.reward.tolist() == [2, 0, 2, 0] and result.reward.dtype == np.float32
    assert not result.is_last.any() and not result.is_terminal.any()
    assert result.is_last.dtype == bool
    failed = [1, 3]
    np.testing.assert_array_equal(result.obs["vector"][failed], before.obs["vector"][failed])

    for call, arguments in ((vector.step, (CALM,)), (vector.reset, ())):
        with pytest.raises(ValueError, match=r"environments \[1, 3\] failed: replace them first"):
            call(*arguments)
    states, faults = vector.get_states()
    assert [state is None for state in states] == [False, True, False, True] and faults == []
    assert vector.replace({1: puppet(7), 3: puppet(8)}) == []
    with pytest.raises(ValueError, match=r"environments \[1, 3\] are at the end .*: reset them"):
        vector.step(CALM)
    obs = reset_rows(vector, [False, True, False, True])
    assert obs["vector"][[1, 3], :2].tolist() == [[7, 0], [8, 0]]
    for _ in range(3):
        result = step_rows(vector, CALM)
        assert_rows_equal(result, step_rows(reference, CALM), [0, 2])
    assert result.obs["vector"][[1, 3], 1].tolist() == [3, 3]
    assert not result.failed.any()


@pytest.mark.parametrize(
    ("action", "what"),
    [
        (HANG, "hung for 0.7 seconds and was killed"),
        (EXIT, "died with exit code 3"),
        (KILL, "died with exit code -9"),
    ],
    ids=["hang", "exit", "kill"],
)
def test_a_worker_that_ends_fails_with_all_its_rows(processes, action, what):
    reference = LocalVector([puppet(row) for row in range(4)])
    reference.reset()
    old = processes._workers[0].process.pid
    result, (fault,) = processes.step([NOTHING, action, NOTHING, NOTHING])
    assert fault == ((0, 1), f"worker 0 (environments 0 to 1) {what}")
    assert result.failed.tolist() == [True, True, False, False]
    assert result.reward.tolist() == [0, 0, 1, 1]
    assert_rows_equal(result, step_rows(reference, CALM), [2, 3])
    assert exits(old)
    processes.replace({0: puppet(10), 1: puppet(11)})
    obs = reset_rows(processes, [True, True, False, False])
    assert obs["vector"][:, 0].tolist() == [10, 11, 2, 3]
    assert_rows_equal(step_rows(processes, CALM), step_rows(reference, CALM), [2, 3])


def test_rows_of_a_worker_need_not_be_replaced_together(processes):
    processes.step([EXIT, NOTHING, NOTHING, NOTHING])
    starting = processes._workers[0].process.pid
    os.kill(starting, signal.SIGSTOP)  # calls that have nothing for it do not wait for it
    states, faults = processes.get_states()
    assert [state is None for state in states] == [True, True, False, False] and faults == []
    assert processes.set_states([None] * 4)[0].tolist() == [False] * 4
    reset_rows(processes, [False, False, True, True])
    os.kill(starting, signal.SIGCONT)
    processes.replace({1: puppet(11)})
    processes.reset([False, True, False, False])
    assert step_rows(processes, CALM, [False, True, True, True]).reward.tolist() == [0, 1, 1, 1]
    processes.replace({0: puppet(10)})
    obs = reset_rows(processes, [True, False, False, False])
    assert obs["vector"][:, 0].tolist() == [10, 11, 2, 3]


def test_hanging_workers_share_one_timeout(processes):
    begin = time.monotonic()
    _, faults = processes.step([HANG, NOTHING, HANG, NOTHING])
    assert TIMEOUT <= time.monotonic() - begin < 1.8 * TIMEOUT
    assert [fault.rows for fault in faults] == [(0, 1), (2, 3)]


def test_a_worker_that_hangs_takes_no_time_from_the_others(processes):
    """The timeout holds while a state that fills the pipe is sent, or received."""
    states, _ = processes.get_states()
    vector = replace_all(processes, ballast=4_000_000)
    large, _ = vector.get_states()
    assert len(large[2]) > 4_000_000
    vector.replace({0: puppet(get_state="hang")})
    vector.reset([True, False, False, False])
    found, (fault,) = vector.get_states()
    assert found == [None, None, *large[2:]]
    assert fault.rows == (0, 1)

    vector = replace_all(vector)
    os.kill(vector._workers[0].process.pid, signal.SIGSTOP)
    begin = time.monotonic()
    restored, (fault,) = vector.set_states(large)
    assert time.monotonic() - begin < TIMEOUT + 1.0
    assert restored.tolist() == [False, False, True, True]
    assert fault.rows == (0, 1) and "worker 0 (environments 0 to 1) hung" in fault.text
    vector = replace_all(vector)
    assert vector.set_states(states)[0].all()


def test_a_process_that_holds_the_connection_does_not_hide_a_death():
    vector = ProcessVector([puppet(0)], 1, timeout=60.0)
    vector.reset()
    begin = time.monotonic()
    _, (fault,) = vector.step([ORPHAN])
    assert time.monotonic() - begin < 3.5
    assert "died with exit code 3" in fault.text
    vector.close()


def test_a_pause_of_everything_is_no_hang(processes, monkeypatch):
    """The clock runs as if all processes were stopped for hours in the middle of a call."""
    times = iter(range(0, 10**9, 10_000))
    monkeypatch.setattr(processes, "_timeout", 10.0)
    with monkeypatch.context() as patch:
        patch.setattr(process_module, "TICK", 0.05)
        patch.setattr(process_module.time, "monotonic", lambda: next(times))
        assert not step_rows(processes, [SLOW] * 4).failed.any()


def test_faults_while_resetting(vector):
    vector.replace({1: puppet(1, reset="raise")})
    before = step_rows(vector, CALM, [True, False, True, True]).obs
    (fault,) = vector.reset([False, True, True, False])
    assert fault.rows == (1,) and "LookupError" in fault.text
    obs = vector.observations()
    assert obs["vector"][:, 1].tolist() == [1, 0, 0, 1]
    np.testing.assert_array_equal(obs["vector"][1], before["vector"][1])
    vector.replace({1: puppet(7)})
    assert reset_rows(vector, [False, True, False, False])["vector"][1, 0] == 7
    assert step_rows(vector, CALM).reward.tolist() == [2, 1, 1, 2]


def test_a_hang_while_resetting(processes):
    processes.replace({3: puppet(3, reset="hang")})
    assert rows_of(processes.reset([False, False, False, True])) == [2, 3]


def test_faults_while_building(vector):
    faults = vector.replace({0: puppet(build="raise"), 1: puppet(7), 2: puppet(8)})
    assert rows_of(faults) == [0]
    obs = reset_rows(vector, [False, True, True, False])
    assert obs["vector"][:, 0].tolist()[1:] == [7, 8, 3]
    with pytest.raises(ValueError, match=r"environments \[0\] failed"):
        vector.step(CALM)
    wrong = functools.partial(make_env, "catch", 0)
    with pytest.raises(ValueError, match="environment 1 has the spaces .*, environment 0"):
        vector.replace({0: puppet(9), 1: wrong})
    with pytest.raises(ValueError, match=r"environments \[1\] failed"):
        vector.reset()
    vector.replace({})
    with pytest.raises(ValueError, match=r"rows \[4\]; allowed: 0 to 3"):
        vector.replace({4: puppet()})
    vector.replace({1: puppet(10)})
    assert reset_rows(vector)["vector"][:, 0].tolist() == [9, 10, 8, 3]


def test_a_worker_that_ends_while_building(processes):
    faults = processes.replace({0: puppet(7), 1: puppet(build="exit"), 2: puppet(8)})
    assert rows_of(faults) == [0, 1]
    reset_rows(processes, [False, False, True, True])


def test_an_environment_that_does_not_close_is_let_go(vector):
    vector.replace({row: puppet(close="raise") for row in (0, 1)})
    vector.replace({row: puppet(7) for row in (0, 1)})
    broken = LocalVector([puppet(close="raise"), puppet(close="raise")])
    broken.close()


def test_states_that_cannot_be_had_or_restored(vector, caplog):
    vector.replace({0: puppet(get_state="raise"), 2: puppet(set_state="raise")})
    vector.reset()
    states, faults = vector.get_states()
    assert [state is None for state in states] == [True, False, False, False] and faults == []
    assert "states of environments [0] could not be saved" in caplog.text
    assert "LookupError: the puppet is broken" in caplog.text
    caplog.clear()
    vector.step(CALM)
    restored, faults = vector.set_states([None, b"no pickle", states[2], states[3]])
    assert restored.tolist() == [False, False, False, True] and faults == []
    assert "states of environments [1, 2] could not be restored" in caplog.text
    assert "UnpicklingError" in caplog.text
    assert vector.observations()["vector"][[0, 3], 1].tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"environments \[1, 2\] failed: replace them first"):
        vector.step(CALM)


class Fickle(gymnasium.Env):
    """An environment that returns the observation that a test sets."""

    def __init__(self):
        box = spaces.Box(0, 9, (2,), np.float32)
        self.observation_space = spaces.Dict({"a": box, "b": box})
        self.action_space = spaces.Discrete(2)
        self.obs = {"a": np.ones(2), "b": np.ones(2)}

    def reset(self, *, seed=None, options=None):
        return self.obs, {}

    def step(self, action):
        return self.obs, 1.0, False, False, {}


@pytest.mark.parametrize("wrong", [{"b": np.zeros(1)}, {"b": ["x", "y"]}, {"c": np.zeros(2)}])
def test_a_wrong_observation_is_not_written_in_part(wrong):
    env = Fickle()
    vector = LocalVector([lambda: adapt(env, size=8)])
    vector.reset()
    env.obs = {"a": np.zeros(2)} | wrong
    result, (fault,) = vector.step([0])
    assert "observation" in fault.text
    assert result.obs["a"].tolist() == result.obs["b"].tolist() == [[1, 1]]
    assert result.reward.tolist() == [0]
