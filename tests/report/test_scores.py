"""Scores and statistics: published aggregates, and numbers worked by hand."""

import numpy as np
import pytest

from dreamer_jax.report.scores import statistics
from dreamer_jax.report.scores.published import (
    DMC,
    METHODS,
    aggregate_atari,
    atari_methods,
    normalize,
    published_curve,
    published_scores,
    record_normalize,
    suite_of,
)
from dreamer_jax.report.scores.score import Point, add_points, frames_to_reach, make_curve, score
from dreamer_jax.report.scores.statistics import (
    STATISTICS,
    estimate,
    performance_profile,
    probability_of_improvement,
)

# Table 1 of Hafner et al. 2021: gamer median, gamer mean, record mean, clipped record mean.
TABLE_1 = {
    "DreamerV2": (2.15, 11.33, 0.44, 0.28),
    "DreamerV2 (schedules)": (2.64, 10.45, 0.43, 0.28),
    "IQN": (1.29, 8.85, 0.21, 0.21),
    "Rainbow": (1.47, 9.12, 0.17, 0.17),
    "C51": (1.09, 7.70, 0.15, 0.15),
    "DQN": (0.65, 2.84, 0.12, 0.12),
}


def test_every_method_has_the_aggregates_of_the_paper():
    methods = atari_methods()
    assert set(methods) == set(TABLE_1)
    for name, scores in methods.items():
        assert len(scores) == 55
        assert tuple(round(x, 2) for x in aggregate_atari(scores)) == TABLE_1[name], name


def test_methods_have_only_the_tasks_that_were_published():
    tasks = ["acrobot_swingup", "cartpole_balance", "walker_walk"]
    assert [published_scores(f"dmc:{task}")["D4PG, 100M"] for task in tasks] == [91.7, 992.8, 968.3]
    assert set(METHODS[DMC].values()) >= set(published_scores("dmc:cup_catch"))
    assert "PlaNet, 1M" not in published_scores("dmc:hopper_hop")  # not published, not zero


def test_tasks_are_found_under_every_spelling():
    assert published_scores("atari:jamesbond") == published_scores("atari:james_bond")
    assert published_scores("dmc:ball_in_cup_catch") == published_scores("dmc:cup_catch") != {}
    for task in ("catch", "dmc_proprio:walker_walk", "gym:CartPole-v1", "atari:adventure"):
        assert published_scores(task) == {} and published_curve(task) is None
    assert [suite_of(t) for t in ("reach", "atari:pong", "gym:x")] == ["embedded", "atari", None]


def test_normalisation_by_hand():
    assert normalize("atari:james_bond", 302.8) == 1.0
    assert normalize("atari:pong", -20.7 + 35.3 / 2) == pytest.approx(0.5)
    assert record_normalize("atari:pong", 21.0) == 1.0
    assert normalize("dmc:walker_walk", 955.0) == 0.955
    assert normalize("catch", 0.2) == pytest.approx(0.5)
    assert normalize("gym:x", 1.0) is None and record_normalize("dmc:walker_walk", 1.0) is None


def test_a_published_curve_by_hand():
    curve = published_curve("atari:alien")
    assert (curve.frames[-1], curve.mean[-1], curve.low[-1], curve.high[-1]) == (
        199e6, 3966.88, 437.0, 6302.0,
    )  # fmt: skip
    assert curve.seeds == 8 and len(curve.frames) == 11


def test_the_score_is_the_last_value_at_or_before_a_frame():
    rows = [
        {"frame": 100, "eval_return": 1.0},
        {"frame": 150, "train_return": 7.0},
        {"frame": 200, "eval_return": 3.0},
        {"frame": 200, "eval_return": 2.0},  # written again after a resume
        {"frame": 300, "eval_return": None},  # was not finite
    ]
    points = {}
    for row in rows:
        add_points(points, row, ["eval_return"], "frame")
    curve = make_curve(points["eval_return"])
    assert curve == [(100, 1.0), (200, 2.0)]
    assert score(curve) == Point(200, 2.0)  # a run that stopped keeps its last value
    assert score(curve, at=200) == (200, 2.0) and score(curve, at=199) == (100, 1.0)
    assert score(curve, at=99) is None and score([]) is None
    assert (frames_to_reach(curve, 1.5), frames_to_reach(curve, 2.5)) == (200, None)


SCORES = {"a": [0, 1, 2, 9], "b": [0.5, 0.5, 0.5, 2.5]}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mean", 2.0),  # of 3 and 1
        ("median", 2.0),
        ("iqm", 1.0),  # 0 0.5 | 0.5 0.5 1 2 | 2.5 9
        ("optimality_gap", 0.3125),  # (1 + 0 + 0 + 0) / 4 and (0.5 + 0.5 + 0.5 + 0) / 4
    ],
)
def test_statistics_by_hand(name, expected):
    result = estimate(STATISTICS[name], SCORES)
    assert result.value == pytest.approx(expected)
    assert (result.tasks, result.runs) == (2, 4)
    assert result.low is None and result.high is None  # of 4 runs


def test_an_interval_by_hand():
    # The mean of a resample is a binomial share: P(X = 0) = 0.33 and P(X <= 3) = 0.993 of 5.
    result = estimate(statistics.mean, {"a": [1, 0, 0, 0, 0]})
    assert (result.value, result.low, result.high) == (0.2, 0.0, pytest.approx(0.6))


@pytest.mark.parametrize("name", STATISTICS)
def test_intervals_are_stratified_by_task(name):
    # Tasks of constant scores: resampling within tasks changes nothing.
    result = estimate(STATISTICS[name], {"a": [0.25] * 5, "b": [0.75] * 6})
    assert result.low == result.high == pytest.approx(result.value)


def test_an_interval_repeats_and_needs_five_runs_of_every_task():
    scores = {"a": [0, 1, 2, 3, 4], "b": [5, 6, 7, 8, 9]}
    assert estimate(statistics.iqm, scores) == estimate(statistics.iqm, scores)
    assert estimate(statistics.iqm, scores).low < 4.5 < estimate(statistics.iqm, scores).high
    assert estimate(statistics.iqm, scores | {"b": [5, 6, 7, 8]}).low is None


def test_a_profile_by_hand():
    profile = performance_profile({"a": [0, 1, 2, 3], "b": [2, 2]}, [0, 1.5, 2, 5])
    np.testing.assert_allclose(profile, [(0.75 + 1) / 2, (0.5 + 1) / 2, 0.25 / 2, 0])


def test_the_probability_of_improvement_by_hand():
    ours, others = {"a": [1, 2], "b": [3], "c": [9]}, {"a": [0, 2], "b": [4, 4]}
    # a: 1 > 0, 1 < 2, 2 > 0, 2 = 2: (1 + 0 + 1 + 0.5) / 4; b: 0
    result = probability_of_improvement(ours, others)
    assert result.value == pytest.approx((2.5 / 4 + 0) / 2) and result.tasks == 2
    sure = probability_of_improvement({"a": range(5, 10)}, {"a": range(5)})
    assert (sure.value, sure.low, sure.high) == (1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="no task is in both"):
        probability_of_improvement({"a": [1]}, {"b": [1]})
