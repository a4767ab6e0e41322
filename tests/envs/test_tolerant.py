"""Tests of vectors whose environments are replaced when they fail."""

import json

import numpy as np
import pytest
from env_doubles import EXIT, HANG, NAN, NOTHING, RAISE, copied, puppet

from dreamer_jax.envs.vector import FaultLimit, FaultTolerantVector, TooManyFaults

CALM = [NOTHING] * 4


def make_row(row, generation, plan=()):
    """Build a puppet marked 10 * generation + row, with the trouble that the plan has for it."""
    trouble = dict(plan).get((row, generation), {})
    return puppet(10 * generation + row, **trouble)()


class Tolerated:
    """A fault-tolerant vector of 4 puppets, and the faults that it reported."""

    def __init__(self, plan=(), workers=0, on_fault=None):
        def make(row, generation):
            return make_row(row, generation, plan)

        self.faults = []
        report = on_fault or (lambda row, text: self.faults.append((row, text)))
        self.vector = FaultTolerantVector(make, 4, workers=workers, timeout=0.7, on_fault=report)

    @property
    def failed_rows(self):
        return [row for row, _ in self.faults]


@pytest.fixture
def tolerate():
    made = []

    def build(*args, **settings):
        made.append(Tolerated(*args, **settings))
        made[-1].vector.reset()
        return made[-1], made[-1].vector

    yield build
    for each in made:
        each.vector.close()


def marks(vector):
    return vector.observations()["vector"][:, 0].tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_a_failed_row_gets_another_environment_and_the_others_go_on(tolerate, workers):
    calm, reference = tolerate()
    seen, vector = tolerate(workers=workers)
    assert vector.num_envs == 4
    assert vector.observation_space == reference.observation_space
    assert vector.action_space == reference.action_space
    before = copied(vector.step(CALM).obs)
    reference.step(CALM)
    result, expected = vector.step([NOTHING, NAN, NOTHING, RAISE]), reference.step(CALM)
    assert result.failed.tolist() == [False, True, False, True]
    assert result.reward.tolist() == [2, 0, 2, 0]
    np.testing.assert_array_equal(result.obs["vector"][[1, 3]], before["vector"][[1, 3]])
    assert seen.failed_rows == [1, 3]
    assert "not nan" in seen.faults[0][1] and "the puppet is broken" in seen.faults[1][1]
    with pytest.raises(ValueError, match=r"environments \[1, 3\] are at the end"):
        vector.step(CALM)
    vector.reset(result.failed)
    assert marks(vector) == [0, 11, 2, 13]
    assert vector.generations.tolist() == [0, 1, 0, 1]
    np.testing.assert_array_equal(
        vector.observations()["vector"][[0, 2]], expected.obs["vector"][[0, 2]]
    )
    for _ in range(3):
        result, expected = vector.step(CALM), reference.step(CALM)
        np.testing.assert_array_equal(result.obs["vector"][[0, 2]], expected.obs["vector"][[0, 2]])
        assert not result.failed.any()
    assert seen.failed_rows == [1, 3] and calm.faults == []


def test_a_new_environment_draws_other_random_numbers(tolerate):
    _, vector = tolerate()
    first = vector.observations()["vector"][0, 2]
    vector.reset(vector.step([RAISE, *CALM[1:]]).failed)
    assert vector.observations()["vector"][0, 2] != first


@pytest.mark.parametrize(
    ("action", "what"), [(HANG, "hung for 0.7 seconds"), (EXIT, "died with exit code 3")]
)
def test_a_worker_that_ends_is_one_fault(tolerate, action, what):
    seen, vector = tolerate(workers=2)
    result = vector.step([RAISE, NOTHING, NOTHING, action])
    assert result.failed.tolist() == [True, False, True, True]
    assert seen.failed_rows == [0, 2]
    assert f"worker 1 (environments 2 to 3) {what}" in seen.faults[1][1]
    assert vector.generations.tolist() == [1, 0, 1, 1]
    vector.reset(result.failed)
    assert marks(vector) == [10, 1, 12, 13]
    assert vector.step(CALM).reward.tolist() == [1, 2, 1, 1]


def test_reset_tries_until_it_works(tolerate):
    plan = {(1, 0): {"reset": "raise"}, (1, 1): {"build": "raise"}, (1, 2): {"reset": "raise"}}
    calm, reference = tolerate()
    seen, vector = tolerate(plan)
    assert seen.failed_rows == [1, 1, 1]
    assert vector.generations.tolist() == [0, 3, 0, 0] and marks(vector) == [0, 31, 2, 3]
    # The others were reset once.
    np.testing.assert_array_equal(
        vector.observations()["vector"][[0, 2, 3]], reference.observations()["vector"][[0, 2, 3]]
    )
    assert vector.reset([False] * 4)["vector"][1, 0] == 31
    with pytest.raises(ValueError, match="mask must be bool"):
        vector.reset([0, 1, 2, 3])


def test_rows_lost_while_another_is_reset_are_reported_by_the_next_step(tolerate):
    seen, vector = tolerate({(2, 1): {"reset": "exit"}}, workers=2)
    assert vector.step([NOTHING, NOTHING, RAISE, NOTHING]).failed.tolist() == [0, 0, 1, 0]
    obs = vector.reset([False, False, True, False])
    lost = obs["vector"][3].copy()
    assert seen.failed_rows == [2, 2]
    assert obs["vector"][:, :2].tolist() == [[0, 1], [1, 1], [22, 0], [3, 1]]
    # Row 3 has a new environment, and its episode is over though nothing reported that yet.
    result = vector.step([NOTHING, NOTHING, NOTHING, RAISE])
    assert result.failed.tolist() == [False, False, False, True]
    assert result.reward.tolist() == [2, 2, 1, 0]
    assert result.obs["vector"][3].tolist() == lost.tolist()
    vector.reset(result.failed)
    assert marks(vector) == [0, 1, 22, 13]
    assert vector.step(CALM).reward.tolist() == [3, 3, 2, 1]
    assert seen.failed_rows == [2, 2]


def test_rows_lost_while_another_is_rebuilt_keep_their_step(tolerate):
    seen, vector = tolerate({(2, 1): {"build": "exit"}}, workers=2)
    result = vector.step([NOTHING, NOTHING, RAISE, NOTHING])
    assert result.failed.tolist() == [False, False, True, False]
    assert result.reward.tolist() == [1, 1, 0, 1]
    assert seen.failed_rows == [2, 2] and vector.generations.tolist() == [0, 0, 2, 1]
    vector.reset(result.failed)
    assert vector.step(CALM).failed.tolist() == [False, False, False, True]


def test_rows_lost_while_states_are_read_are_reported_by_the_next_step(tolerate):
    seen, vector = tolerate({(1, 0): {"get_state": "exit"}}, workers=2)
    assert [row["environment"] is None for row in vector.state()] == [True, True, False, False]
    assert seen.failed_rows == [0]
    result = vector.step(CALM)
    assert result.failed.tolist() == [True, True, False, False]
    vector.reset(result.failed)
    assert marks(vector) == [10, 11, 2, 3]
    assert not vector.step(CALM).failed.any()


@pytest.mark.parametrize("trouble", ["build", "reset"])
def test_rows_that_wait_to_be_reported_are_saved_without_a_state(tolerate, trouble):
    _, first = tolerate({(2, 1): {trouble: "exit"}}, workers=2)
    failed = first.step([NOTHING, NOTHING, RAISE, NOTHING]).failed
    first.reset(failed)
    assert [row["environment"] is None for row in first.state()] == [False, False, False, True]
    _, second = tolerate()
    restored = second.restore(json.loads(json.dumps(first.state())))
    assert restored.tolist() == [True, True, True, False]
    second.reset(~restored)
    assert not second.step(CALM).failed.any()


def test_resetting_a_lost_row_is_enough(tolerate):
    _, vector = tolerate({(1, 0): {"get_state": "exit"}}, workers=2)
    vector.state()
    vector.reset([True, False, False, False])
    assert vector.step(CALM).failed.tolist() == [False, True, False, False]


def test_rows_without_a_state_do_not_repeat_the_start(tolerate, caplog):
    _, first = tolerate()
    first.reset(first.step([NOTHING, NOTHING, RAISE, RAISE]).failed)
    first.step(CALM)
    rows = json.loads(json.dumps(first.state()))
    assert [row["generation"] for row in rows] == [0, 0, 1, 1]
    expected = first.step(CALM).obs["vector"]

    seen, second = tolerate()
    rows[0]["environment"], rows[2]["environment"] = None, "0123"
    restored = second.restore(rows)
    assert restored.tolist() == [False, True, False, True]
    assert "could not be restored" in caplog.text and seen.faults == []
    assert second.generations.tolist() == [1, 0, 2, 1]
    second.reset(~restored)
    assert marks(second) == [10, 1, 22, 13]
    after = second.step(CALM).obs["vector"]
    # The mark of row 3 is its first environment's; its random numbers continue.
    np.testing.assert_array_equal(after[[1, 3], 1:], expected[[1, 3], 1:])


def test_workers_that_end_while_states_are_restored(tolerate):
    _, first = tolerate()
    first.step(CALM)
    seen, second = tolerate({(1, 0): {"set_state": "exit"}}, workers=2)
    assert second.restore(first.state()).tolist() == [False, False, True, True]
    assert seen.failed_rows == [0] and second.generations.tolist() == [1, 1, 0, 0]
    second.reset([True, True, False, False])
    assert second.step(CALM).reward.tolist() == [1, 1, 2, 2]


def test_restored_rows_that_are_lost_again_are_not_restored(tolerate):
    _, first = tolerate()
    seen, second = tolerate({(0, 1): {"build": "exit"}}, workers=2)
    rows = first.state()
    rows[0]["environment"] = None
    restored = second.restore(rows)
    assert restored.tolist() == [False, False, True, True]
    assert seen.failed_rows == [0] and second.generations.tolist() == [2, 1, 0, 0]
    second.reset(~restored)
    assert not second.step(CALM).failed.any()


def test_restored_rows_are_checked(tolerate):
    _, vector = tolerate()
    rows = vector.state()
    with pytest.raises(ValueError, match="3 saved environments; this vector has 4"):
        vector.restore(rows[:3])
    with pytest.raises(ValueError, match="generations must be at least 0"):
        vector.restore([*rows[:3], rows[3] | {"generation": -1}])


def test_a_report_that_raises_ends_the_call(tolerate):
    def stop(row, text):
        raise TooManyFaults(f"row {row}")

    _, vector = tolerate(on_fault=stop)
    with pytest.raises(TooManyFaults, match="row 2"):
        vector.step([NOTHING, NOTHING, RAISE, NOTHING])


def test_hopeless_environments_end_the_run():
    logged = []
    limit = FaultLimit(5, lambda row, text: logged.append(row))
    plan = {(3, generation): {"reset": "raise"} for generation in range(100)}
    vector = Tolerated(plan, on_fault=limit).vector
    with pytest.raises(TooManyFaults, match="(?s)failed 6 times within an hour; allowed: 5.*brok"):
        vector.reset()
    assert logged == [3] * 6
    vector.close()


def test_a_first_environment_that_cannot_be_built_is_an_error():
    with pytest.raises(LookupError, match="the puppet is broken"):
        Tolerated({(3, 0): {"build": "raise"}})


def test_only_the_faults_of_the_last_hour_count():
    now, logged = [0.0], []
    limit = FaultLimit(2, lambda *fault: logged.append(fault), clock=lambda: now[0])
    for now[0] in (0.0, 1800.0, 3600.5, 5401.0):  # never more than two within 3600 s
        limit(1, "text")
    now[0] = 7200.5  # one too many, with 3600.5 and 5401.0
    with pytest.raises(TooManyFaults, match="3 times within an hour; allowed: 2.*4:\nthe last"):
        limit(4, "the last")
    assert logged == [(1, "text")] * 4 + [(4, "the last")]
    with pytest.raises(TooManyFaults, match="allowed: 0"):
        FaultLimit(0, print)(0, "text")
    with pytest.raises(ValueError, match="per_hour must be at least 0, not -1"):
        FaultLimit(-1, print)
