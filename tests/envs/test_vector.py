"""Tests of vectors of environments, in one process and in several, mostly without faults."""

import functools
import os
from multiprocessing.shared_memory import SharedMemory

import gymnasium
import numpy as np
import pytest
from env_doubles import copied, make_vector, reset_rows, step_rows
from gymnasium import spaces

from dreamer_jax.envs import make_env
from dreamer_jax.envs.vector import process as process_module
from dreamer_jax.envs.vector.process import ProcessVector
from dreamer_jax.envs.vector.vector import LocalVector


class Counter(gymnasium.Env):
    """An environment that counts steps in a reused image and a vector, and cannot be pickled."""

    def __init__(self, length=3):
        self.observation_space = spaces.Dict(
            {
                "image": spaces.Box(0, 255, (8, 8, 1), np.uint8),
                "count": spaces.Box(0, 1e6, (1,), np.float32),
            }
        )
        self.action_space = spaces.Box(0.0, 2.0, (1,), np.float32)
        self.length, self.time = length, 0
        self.lock = (n for n in range(1))
        self.image = np.zeros((8, 8, 1), np.uint8)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.observe(), {}

    def step(self, action):
        self.time += 1
        return self.observe(), float(action[0]), False, self.time >= self.length, {}

    def observe(self):
        self.image[:] = self.time
        return {
            "image": self.image,
            "count": np.array([self.time], np.float32),
        }


def make_counter(**settings):
    return make_env(lambda seed: Counter(**settings), 0, size=8, images="image")


def counters(*lengths):
    return [functools.partial(make_counter, length=length) for length in lengths]


def catches(count):
    return [functools.partial(make_env, "catch", seed) for seed in range(count)]


@pytest.fixture
def close():
    """Close the vectors that a test registers."""
    vectors = []

    def register(vector):
        vectors.append(vector)
        return vector

    yield register
    for vector in vectors:
        vector.close()


def results_of(result):
    return [*result.obs.values(), result.reward, result.is_last, result.is_terminal]


def assert_equal(first, second):
    for a, b in zip(first, second, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def play(vector, steps, seed=0):
    """Take random actions, reset the rows that end, and return all results."""
    rng, seen = np.random.default_rng(seed), []
    for _ in range(steps):
        result = step_rows(vector, rng.integers(vector.action_space.n, size=vector.num_envs))
        seen += results_of(result)
        if result.is_last.any():
            seen += reset_rows(vector, result.is_last).values()
    return seen


def test_local_vector_steps_and_masks_by_hand(close):
    vector = close(LocalVector(counters(2, 3)))
    obs = reset_rows(vector)
    assert obs["image"].shape == (2, 8, 8, 1) and obs["image"].dtype == np.uint8
    assert obs["count"].tolist() == [[0], [0]]
    first = step_rows(vector, np.array([[-1.0], [1.0]], np.float32))
    assert first.reward.tolist() == [0.0, 2.0] and first.reward.dtype == np.float32
    second = step_rows(vector, np.zeros((2, 1)))
    assert second.is_last.tolist() == [True, False]
    assert second.is_terminal.tolist() == [False, False]
    with pytest.raises(ValueError, match=r"environments \[0\] are at the end of an episode"):
        vector.step(np.zeros((2, 1)))
    assert reset_rows(vector, second.is_last)["count"].tolist() == [[0], [2]]
    third = step_rows(vector, np.zeros((2, 1)))
    assert third.is_last.tolist() == [False, True]
    # Rewards and flags are copies, which no later call changes.
    assert second.is_last.tolist() == [True, False] and first.reward.tolist() == [0.0, 2.0]


@pytest.mark.parametrize("workers", [0, 1])
def test_observations_are_read_only_and_not_the_memory_of_the_environment(close, workers):
    vector = close(make_vector(counters(3), workers))
    vector.reset()
    obs = vector.step(np.ones((1, 1)))[0].obs
    with pytest.raises(ValueError, match="read-only"):
        obs["count"][:] = 0
    if not workers:
        env = vector._slots._envs[0].unwrapped
        env.image += 9
    assert obs["image"].max() == obs["count"].max() == 1
    vector.close()  # the memory lives as long as its views
    assert obs["count"].tolist() == [[1]]


def test_terminal_is_not_truncation(close):
    vector = close(LocalVector(catches(2)))
    vector.reset()
    results = [step_rows(vector, [1, 1]) for _ in range(7)]
    assert not any(result.is_last.any() for result in results[:-1])
    assert results[-1].is_last.all() and results[-1].is_terminal.all()
    assert set(results[-1].reward) <= {-1.0, 1.0}


@pytest.mark.parametrize("workers", [1, 3])
def test_processes_and_one_process_agree_to_the_bit(close, workers):
    local, processes = close(LocalVector(catches(5))), close(make_vector(catches(5), workers))
    assert processes.observation_space == local.observation_space
    assert processes.action_space == local.action_space
    assert processes.num_envs == 5
    for vector in (local, processes):
        with pytest.raises(ValueError, match=r"environments \[0, 1, 2, 3, 4\] are at the end"):
            vector.step(np.ones(5, int))
    assert_equal(reset_rows(local).values(), reset_rows(processes).values())
    assert_equal(play(local, 30), play(processes, 30))
    mask = np.array([True, False, False, True, False])
    assert_equal(reset_rows(local, mask).values(), reset_rows(processes, mask).values())
    states, faults = processes.get_states()
    assert faults == []
    before = copied(processes.observations())
    after = play(processes, 30, seed=1)
    assert_equal(play(local, 30, seed=1), after)
    # Restore forward and back in time, into the same and the other kind of vector.
    for vector in (processes, local):
        assert vector.set_states(states)[0].tolist() == [True] * 5
        assert_equal(vector.observations().values(), before.values())
        assert_equal(play(vector, 30, seed=1), after)


def test_atari_in_processes_is_bit_identical_and_restores(close):
    env_fns = [
        functools.partial(make_env, "atari:breakout", seed, action_repeat=4) for seed in (0, 1)
    ]
    local, processes = close(LocalVector(env_fns)), close(ProcessVector(env_fns, 2))
    assert_equal(reset_rows(local).values(), reset_rows(processes).values())
    assert_equal(play(local, 50), play(processes, 50))
    states, _ = local.get_states()
    expected = play(local, 50, seed=1)
    fresh = close(LocalVector(env_fns[::-1]))
    assert fresh.set_states(states)[0].all()
    assert_equal(play(fresh, 50, seed=1), expected)


def test_pickled_environments_go_on_in_a_fresh_vector(close):
    env_fns = [functools.partial(make_env, "gym:CartPole-v1", seed) for seed in range(3)]
    first, second = close(LocalVector(env_fns)), close(LocalVector(env_fns))
    first.reset()
    play(first, 40)
    states, _ = first.get_states()
    assert second.set_states([None, *states[1:]])[0].tolist() == [False, True, True]
    assert_equal(second.observations()["vector"][1:], first.observations()["vector"][1:])
    with pytest.raises(ValueError, match=r"environments \[0\] are at the end"):
        second.step([0, 0, 0])
    second.set_states(states)
    assert_equal(play(first, 40, seed=1), play(second, 40, seed=1))


def test_a_restored_row_at_its_end_must_still_be_reset(close):
    vector = close(LocalVector(catches(2)))
    vector.reset()
    for _ in range(7):
        vector.step([1, 1])
    states, _ = vector.get_states()
    vector.reset()
    vector.set_states(states)
    with pytest.raises(ValueError, match=r"environments \[0, 1\] are at the end"):
        vector.step([1, 1])


def test_environments_without_an_exact_state_give_none(close, caplog):
    vector = close(LocalVector(counters(3, 3)))
    vector.reset()
    assert vector.get_states() == ([None, None], [])
    assert caplog.text.count("cannot be saved exactly") == 1
    assert vector.set_states([None, None])[0].tolist() == [False, False]
    with pytest.raises(ValueError, match="1 states for 2 environments"):
        vector.set_states([None])


def test_a_wrong_action_reaches_no_environment_and_fails_its_row(close):
    for action in (2.0, np.nan):
        counter = close(LocalVector(counters(100, 100)))
        counter.reset()
        result, (fault,) = counter.step(np.array([[1.0], [action]]))
        assert fault.rows == (1,) and "of 1 numbers in [-1, 1]" in fault.text
        assert result.failed.tolist() == [False, True]
        assert result.obs["count"].tolist() == [[1], [0]]
    for action in (3, -1):
        catch = close(LocalVector(catches(2)))
        catch.reset()
        result, (fault,) = catch.step([0, action])
        assert fault.rows == (1,) and f"action {action} is not an integer" in fault.text
        assert result.failed.tolist() == [False, True]


def test_rows_outside_the_mask_are_not_stepped(close):
    vector = close(LocalVector(counters(2, 1)))
    vector.reset()
    vector.step(np.ones((2, 1)))
    result = step_rows(vector, np.array([[1.0], [9.0]]), [True, False])
    assert result.obs["count"].tolist() == [[2], [1]]
    assert result.reward.tolist() == [2.0, 0.0]
    assert result.is_last.tolist() == [True, False]
    assert not result.failed.any()


def test_an_interrupted_call_leaves_the_vector_unusable(close, monkeypatch):
    vector = close(ProcessVector(catches(1), 1))
    vector.reset()

    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(process_module, "exchange", interrupt)
        with pytest.raises(KeyboardInterrupt):
            vector.step([1])
    with pytest.raises(ValueError, match="failed or was interrupted in an earlier call"):
        vector.observations()


def test_errors_while_building():
    def broken():
        raise LookupError("no such level")

    with pytest.raises(LookupError, match="no such level"):
        LocalVector([broken])
    with pytest.raises(RuntimeError, match="(?s)worker 1 .*1 to 1.*no such level"):
        ProcessVector([*catches(1), broken], 2)
    with pytest.raises(RuntimeError, match="worker 0 .*0 to 0.* died with exit code 7"):
        ProcessVector([lambda: os._exit(7)], 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_spaces_must_agree(workers):
    env_fns = [*catches(1), *counters(3)]
    with pytest.raises(ValueError, match="environment 1 has the spaces .* environment 0"):
        make_vector(env_fns, workers)


def test_wrong_arguments(close):
    with pytest.raises(ValueError, match="at least one environment"):
        LocalVector([])
    for workers in (-1, 3):
        with pytest.raises(ValueError, match=f"workers must be from 1 to .*, not {workers}"):
            ProcessVector(catches(2), workers)
    for timeout in (0, -1.0, np.nan):
        with pytest.raises(ValueError, match="timeout must be more than 0 seconds"):
            ProcessVector(catches(1), 1, timeout)
    with pytest.raises(ValueError, match="must be a Dict of Box"):
        LocalVector([lambda: gymnasium.make("CartPole-v1")])
    vector = close(LocalVector(catches(2)))
    with pytest.raises(ValueError, match=r"mask must be bool \[2\], not int64 \[2\]"):
        vector.reset(np.array([0, 1]))
    vector.reset()
    for actions, given in (([0], r"int64 \[1\]"), ([0.0, 1.0], r"float64 \[2\]")):
        with pytest.raises(ValueError, match=rf"actions must be int64 \[2\], not {given}"):
            vector.step(actions)


def test_closing_twice_ends_the_workers_and_frees_the_memory():
    vector = ProcessVector(catches(2), 2)
    pids = [worker.process.pid for worker in vector._workers]
    name = vector._memory[0].name
    vector.reset()
    vector.close()
    vector.close()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    with pytest.raises(FileNotFoundError):
        SharedMemory(name)
    local = LocalVector(catches(1))
    local.close()
    for closed in (vector, local):
        for call in (closed.reset, closed.observations, closed.get_states):
            with pytest.raises(ValueError, match="this vector is closed"):
                call()
