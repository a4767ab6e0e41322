"""Environments that raise, hang or end their process, in plain vectors."""

import functools
import os
import signal
import time

import gymnasium
import numpy as np
import pytest
from env_doubles import EXIT, HANG, KILL, NAN, NOTHING, ORPHAN, RAISE, SLOW, exits, puppet
from gymnasium import spaces

from dreamer_jax.envs import make_env
from dreamer_jax.envs.vector import EnvFault, LocalVector, ProcessVector, pool

CALM = [NOTHING] * 4
TIMEOUT = 0.7  # seconds


def replace_all(vector, **settings):
    """Four new puppets in two workers, or in none, as if the vector was new."""
    vector.replace({row: puppet(row, **settings) for row in range(4)})
    vector.reset()
    return vector


@pytest.fixture(scope="module")
def shared():
    vector = ProcessVector([puppet(row) for row in range(4)], 2, timeout=TIMEOUT)
    yield vector
    pids = [worker.pid for worker in vector._workers]
    vector.close()
    assert all(exits(pid) for pid in pids)


@pytest.fixture
def processes(shared):
    """EnvSlots 0 and 1 in one worker, 2 and 3 in another."""
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


def catch_fault(call, *arguments):
    with pytest.raises(EnvFault) as caught:
        call(*arguments)
    return caught.value


def test_rows_that_raise_fail_alone(vector, local):
    reference = LocalVector([puppet(row) for row in range(4)])
    reference.reset()
    before = vector.step(CALM)
    reference.step(CALM)
    fault = catch_fault(vector.step, [NOTHING, RAISE, NOTHING, NAN])
    assert set(fault.tracebacks) == {1, 3}
    assert "LookupError: the puppet is broken" in fault.tracebacks[1]
    assert "reward must be a finite number, not nan" in fault.tracebacks[3]
    assert [event.rows for event in fault.faults] == [(1,), (3,)]
    assert str(fault) == f"environments [1, 3] failed:\n{fault.tracebacks[1]}"
    assert_rows_equal(fault.result, reference.step(CALM), [0, 2])
    assert fault.result.failed.tolist() == [False, True, False, True]
    assert fault.result.reward.tolist() == [2, 0, 2, 0] and fault.result.reward.dtype == np.float32
    assert not fault.result.is_last.any() and not fault.result.is_terminal.any()
    assert fault.result.is_last.dtype == bool
    failed = [1, 3]
    np.testing.assert_array_equal(fault.result.obs["vector"][failed], before.obs["vector"][failed])

    for call, arguments in ((vector.step, (CALM,)), (vector.reset, ())):
        with pytest.raises(ValueError, match=r"environments \[1, 3\] failed: replace them first"):
            call(*arguments)
    assert [state is None for state in vector.get_states()] == [False, True, False, True]
    vector.replace({1: puppet(7), 3: puppet(8)})
    with pytest.raises(ValueError, match=r"environments \[1, 3\] are at the end .*: reset them"):
        vector.step(CALM)
    obs = vector.reset([False, True, False, True])
    assert obs["vector"][[1, 3], :2].tolist() == [[7, 0], [8, 0]]
    for _ in range(3):
        result = vector.step(CALM)
        assert_rows_equal(result, reference.step(CALM), [0, 2])
    assert result.obs["vector"][[1, 3], 1].tolist() == [3, 3]
    assert not result.failed.any()


@pytest.mark.parametrize(
    ("action", "what"),
    [
        (HANG, r"worker 0 \(environments 0 to 1\) hung for 0.7 seconds and was killed"),
        (EXIT, r"worker 0 \(environments 0 to 1\) died with exit code 3"),
        (KILL, r"worker 0 \(environments 0 to 1\) died with exit code -9"),
    ],
    ids=["hang", "exit", "kill"],
)
def test_a_worker_that_ends_fails_with_all_its_rows(processes, action, what):
    reference = LocalVector([puppet(row) for row in range(4)])
    reference.reset()
    old = processes._workers[0].pid
    fault = catch_fault(processes.step, [NOTHING, action, NOTHING, NOTHING])
    assert set(fault.tracebacks) == {0, 1}
    assert [event.rows for event in fault.faults] == [(0, 1)]
    with pytest.raises(EnvFault, match=what):
        raise fault
    assert fault.result.failed.tolist() == [True, True, False, False]
    assert fault.result.reward.tolist() == [0, 0, 1, 1]
    assert_rows_equal(fault.result, reference.step(CALM), [2, 3])
    assert exits(old)
    processes.replace({0: puppet(10), 1: puppet(11)})
    assert processes.reset([True, True, False, False])["vector"][:, 0].tolist() == [10, 11, 2, 3]
    assert_rows_equal(processes.step(CALM), reference.step(CALM), [2, 3])


def test_rows_of_a_worker_need_not_be_replaced_together(processes):
    catch_fault(processes.step, [EXIT, NOTHING, NOTHING, NOTHING])
    starting = processes._workers[0].pid
    os.kill(starting, signal.SIGSTOP)  # no call that has nothing for it waits for it
    assert [state is None for state in processes.get_states()] == [True, True, False, False]
    assert processes.set_states([None] * 4).tolist() == [False] * 4
    processes.reset([False, False, True, True])
    os.kill(starting, signal.SIGCONT)
    processes.replace({1: puppet(11)})
    processes.reset([False, True, False, False])
    assert processes.step(CALM, [False, True, True, True]).reward.tolist() == [0, 1, 1, 1]
    processes.replace({0: puppet(10)})
    assert processes.reset([True, False, False, False])["vector"][:, 0].tolist() == [10, 11, 2, 3]


def test_hanging_workers_share_one_timeout(processes):
    begin = time.monotonic()
    fault = catch_fault(processes.step, [HANG, NOTHING, HANG, NOTHING])
    assert TIMEOUT <= time.monotonic() - begin < 1.8 * TIMEOUT
    assert [event.rows for event in fault.faults] == [(0, 1), (2, 3)]


def test_a_worker_that_hangs_takes_no_time_from_the_others(processes):
    """Neither while a state that fills the pipe is sent, nor while one is received."""
    states = processes.get_states()
    vector = replace_all(processes, ballast=4_000_000)
    large = vector.get_states()
    assert len(large[2]) > 4_000_000
    vector.replace({0: puppet(get_state="hang")})
    vector.reset([True, False, False, False])
    fault = catch_fault(vector.get_states)
    assert fault.result == [None, None, *large[2:]]
    assert set(fault.tracebacks) == {0, 1}

    vector = replace_all(vector)
    os.kill(vector._workers[0].pid, signal.SIGSTOP)
    begin = time.monotonic()
    fault = catch_fault(vector.set_states, large)
    assert time.monotonic() - begin < TIMEOUT + 1.0
    assert fault.result.tolist() == [False, False, True, True]
    assert "worker 0 (environments 0 to 1) hung" in fault.tracebacks[1]
    vector = replace_all(vector)
    assert vector.set_states(states).all()


def test_a_process_that_holds_the_connection_does_not_hide_a_death():
    vector = ProcessVector([puppet(0)], 1, timeout=60.0)
    vector.reset()
    begin = time.monotonic()
    fault = catch_fault(vector.step, [ORPHAN])
    assert time.monotonic() - begin < 3.5
    assert "died with exit code 3" in fault.tracebacks[0]
    vector.close()


def test_a_pause_of_everything_is_no_hang(processes, monkeypatch):
    """As if all processes were stopped for hours in the middle of a call."""
    times = iter(range(0, 10**9, 10_000))
    monkeypatch.setattr(processes, "_timeout", 10.0)
    with monkeypatch.context() as patch:
        patch.setattr(pool, "TICK", 0.05)
        patch.setattr(pool.time, "monotonic", lambda: next(times))
        assert not processes.step([SLOW] * 4).failed.any()


def test_faults_while_resetting(vector):
    vector.replace({1: puppet(1, reset="raise")})
    before = vector.step(CALM, [True, False, True, True]).obs
    fault = catch_fault(vector.reset, [False, True, True, False])
    assert set(fault.tracebacks) == {1} and "LookupError" in fault.tracebacks[1]
    assert fault.result["vector"][:, 1].tolist() == [1, 0, 0, 1]
    np.testing.assert_array_equal(fault.result["vector"][1], before["vector"][1])
    vector.replace({1: puppet(7)})
    assert vector.reset([False, True, False, False])["vector"][1, 0] == 7
    assert vector.step(CALM).reward.tolist() == [2, 1, 1, 2]


def test_a_hang_while_resetting(processes):
    processes.replace({3: puppet(3, reset="hang")})
    fault = catch_fault(processes.reset, [False, False, False, True])
    assert set(fault.tracebacks) == {2, 3}


def test_faults_while_building(vector):
    fault = catch_fault(vector.replace, {0: puppet(build="raise"), 1: puppet(7), 2: puppet(8)})
    assert set(fault.tracebacks) == {0} and fault.result is None
    obs = vector.reset([False, True, True, False])
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
    assert vector.reset()["vector"][:, 0].tolist() == [9, 10, 8, 3]


def test_a_worker_that_ends_while_building(processes):
    fault = catch_fault(processes.replace, {0: puppet(7), 1: puppet(build="exit"), 2: puppet(8)})
    assert set(fault.tracebacks) == {0, 1}
    processes.reset([False, False, True, True])


def test_an_environment_that_does_not_close_is_let_go(vector):
    vector.replace({row: puppet(close="raise") for row in (0, 1)})
    vector.replace({row: puppet(7) for row in (0, 1)})
    broken = LocalVector([puppet(close="raise"), puppet(close="raise")])
    broken.close()


def test_states_that_cannot_be_had_or_restored(vector, caplog):
    vector.replace({0: puppet(get_state="raise"), 2: puppet(set_state="raise")})
    vector.reset()
    states = vector.get_states()
    assert [state is None for state in states] == [True, False, False, False]
    assert "states of environments [0] could not be saved" in caplog.text
    assert "LookupError: the puppet is broken" in caplog.text
    caplog.clear()
    vector.step(CALM)
    restored = vector.set_states([None, b"no pickle", states[2], states[3]])
    assert restored.tolist() == [False, False, False, True]
    assert "states of environments [1, 2] could not be restored" in caplog.text
    assert "UnpicklingError" in caplog.text
    assert vector.observations()["vector"][[0, 3], 1].tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"environments \[1, 2\] failed: replace them first"):
        vector.step(CALM)


class Unchecked(gymnasium.Env):
    """Not adapted: the vector itself must find out what is wrong."""

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
    env = Unchecked()
    vector = LocalVector([lambda: env])
    vector.reset()
    env.obs = {"a": np.zeros(2)} | wrong
    result = catch_fault(vector.step, [0]).result
    assert result.obs["a"].tolist() == result.obs["b"].tolist() == [[1, 1]]
    assert result.reward.tolist() == [0]
