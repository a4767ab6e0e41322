"""Statistics over members: numbers worked by hand."""

import numpy as np
import pytest
from scipy.stats import trim_mean

from dreamer_jax.report.aggregates import aggregate, common_values, interquartile_mean
from dreamer_jax.report.wandb.session import history_values


def row(member, **metrics):
    place = {"member": member, "seed": 10 + member, "env_step": 8, "frame": 32, "update": 2}
    return place | metrics


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([3], 3.0),
        ([1, 2, 9], 4.0),  # floor(3 / 4) = 0 are cut
        ([9, 0, 1, 2], 1.5),
        ([100, 1, 2, 3, 4, 5, -100], 3.0),  # floor(7 / 4) = 1 from each end
        ([0, 1, 2, 3, 4, 5, 6, 90], 3.5),
    ],
)
def test_interquartile_mean_by_hand(values, expected):
    assert interquartile_mean(values) == expected


def test_interquartile_mean_is_scipys_trimmed_mean():
    rng = np.random.default_rng(0)
    for count in range(1, 30):
        values = rng.normal(size=count).tolist()
        assert interquartile_mean(values) == pytest.approx(trim_mean(values, 0.25))


def test_interquartile_mean_of_nothing():
    with pytest.raises(ValueError, match="no values"):
        interquartile_mean([])


def test_aggregate_over_the_members_that_have_a_metric():
    rows = [
        row(0, loss=1.0, train_return=None, note="a", ok=True),
        row(1, loss=2.0, train_return=7),
        row(2, loss=6.0),
    ]
    assert aggregate(rows) == {
        "env_step": 8,
        "frame": 32,
        "update": 2,
        "loss/mean": 3.0,
        "loss/iqm": 3.0,
        "loss/min": 1.0,
        "loss/max": 6.0,
        "train_return/mean": 7.0,
        "train_return/iqm": 7.0,
        "train_return/min": 7,
        "train_return/max": 7,
    }


def test_frozen_members_are_counted_and_kept():
    rows = [row(0, loss=1.0, frozen=True), row(1, loss=3.0, frozen=False), row(2, loss=5.0)]
    record = aggregate(rows)
    assert record["members_frozen"] == 1
    assert record["loss/mean"] == 3.0
    assert not any(key.startswith("frozen") for key in record)


def test_common_values():
    configs = [
        {"lr": 1e-3, "seed": 1, "env": {"task": "catch", "num": 2}, "opt": {"eps": 1}, "extra": 0},
        {"lr": 1e-3, "seed": 2, "env": {"task": "catch", "num": 3}, "opt": {"eps": 2}},
    ]
    assert common_values(configs) == {"lr": 1e-3, "env": {"task": "catch"}}
    assert common_values(configs[:1]) == configs[0]


def test_hyperparameters_are_no_metrics():
    rows = [row(m, loss=float(m)) | {"hyper/kl_scale": 0.1 * m} for m in range(2)]
    assert not [key for key in aggregate(rows) if "kl_scale" in key]
    assert history_values(rows[1]) == {"env_step": 8, "frame": 32, "update": 2, "loss": 1.0}
