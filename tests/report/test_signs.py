"""Rules that name the likely cause of a failing run, on curves written by hand."""

from pathlib import Path

import pytest

from dreamer_jax.report.results.runs import Member, Run
from dreamer_jax.report.results.signs import signs_of, signs_table
from dreamer_jax.report.scores.score import Point

HEALTHY = {
    "eval_return": [-0.6, 1.0],
    "train_return": [-0.6, 0.9],
    "model_grad_norm": [2000.0, 90.0, 20.0, 10.0],
    "collapsed_latents": [1.0, 0.2, 0.0, 0.0],
    "posterior_entropy": [30.0, 2.0, 1.5, 1.4],
    "actor_grad_norm": [0.02, 0.03, 0.01, 0.002],
    "actor_entropy": [1.09, 0.8, 0.5, 0.2],
    "reward_nonzero": [0.1, 0.0, 0.2, 0.0],
    "reward_slope": [-0.1, 0.3, 0.6, 0.9],
}


def member(changes=None, latest=None):
    run = Run(Path("run"), "run", {"task": "catch", "opt.clip": 100.0})
    curves = {
        key: [Point(100.0 * i, value) for i, value in enumerate(values)]
        for key, values in (HEALTHY | (changes or {})).items()
    }
    run.members = [Member(run, 0, 7, curves=curves, latest=latest or {})]
    return run.members[0]


def test_a_healthy_member_has_no_sign():
    assert signs_of(member()) == [] and signs_table([member().run]) == []
    assert signs_of(member(dict.fromkeys(HEALTHY, ()))) == []


@pytest.mark.parametrize(
    ("changes", "cause", "evidence"),
    [
        (
            {"model_grad_norm": [10.0, 10.0, 10.0, 2000.0]},
            "learning rate of the model too high",
            "stays at 2e+03, above opt.clip = 100",
        ),
        (
            {"posterior_entropy": [20.0, 1e-3, 2e-16, 3e-16]},
            "latents saturated: learning rate of the model too high",
            "3e-16 nats",
        ),
        (
            {
                "collapsed_latents": [0.0, 0.5, 0.9, 1.0],
                "posterior_entropy": [40.0] * 4,
                "reward_slope": [0.0, 0.1, 0.1, 0.2],  # for the same reason
            },
            "weight of the KL loss too high",
            "100% of the latent variables",
        ),
        (
            {"actor_entropy": [1.09, 0.4, 0.1, 0.002], "eval_return": [-0.6, -0.2]},
            "entropy bonus too low",
            "0.002 nats",
        ),
        (
            {
                "actor_entropy": [0.1, -1.57, -1.58, -1.58],
                "actor_grad_norm": [0.06, 1e-3, 1e-4, 4e-5],
                "eval_return": [-0.6, -0.2],
            },
            "actor saturated: learning rate of the actor too high",
            "fell from 0.06 to 4e-05, at an entropy of -1.58 nats",
        ),
        (
            {"reward_slope": [0.0, 0.04, 0.1, 0.2]},
            "too few updates, or weight of the reward's loss too low",
            "predicted rewards are 0.2 times those that were seen",
        ),
        (
            {"reward_nonzero": [0.0] * 4, "train_return": [0.0] * 3},
            "reward never seen",
            "every episode of training returned 0",
        ),
    ],
)
def test_a_failure_is_named(changes, cause, evidence):
    (sign,) = signs_of(member(changes))
    assert sign.cause == cause and evidence in sign.evidence
    (table,) = signs_table([member(changes).run])
    assert [(row["seed"], row["cause"]) for row in table.rows] == [(7, cause)]
    assert set(table.headings) <= set(table.rows[0])


def test_skipped_updates_are_named():
    (sign,) = signs_of(member(latest={"skipped_updates": 3}))
    assert "3 updates were skipped" in sign.evidence and "learning rate" in sign.cause


@pytest.mark.parametrize(
    "changes",
    [
        {"actor_entropy": [1.09, 0.4, 0.1, 0.002]},  # the task is solved
        {"actor_entropy": [1.4, 0.2, -0.5, -3.0], "eval_return": [-0.6, -0.2]},  # continuous
        {"actor_grad_norm": [0.06, 1e-3, 1e-4, 4e-5], "eval_return": [-0.6, -0.2]},  # discrete
        {"actor_grad_norm": [0.06, 4e-5], "actor_entropy": [0.0, -1.0]},  # the task is solved
        {"collapsed_latents": [1.0] * 4, "posterior_entropy": [1e-3] * 4},  # nearly saturated
        {"reward_nonzero": [0.0] * 4},  # drawn from a replay that holds rewards
        {"reward_nonzero": [0.0] * 4, "reward_slope": [0.0] * 4},  # nothing to predict
    ],
)
def test_what_resembles_a_failure_is_not_named(changes):
    assert signs_of(member(changes)) == []
