"""Members of different hyperparameters: which there are, what each is, and that they are data."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import CATCH, forked_command
from conftest import make_tiny_config
from member_runs import add_members, extract, join, list_members, make_env, member_config, newest
from mock_agents import mock_batch

from dreamer_jax import config as config_lib
from dreamer_jax import evaluate, load, train
from dreamer_jax.agent.build import make_agent
from dreamer_jax.agent.members import make_members, stack_hypers
from dreamer_jax.config import sweep
from dreamer_jax.config.sweep import Member
from dreamer_jax.errors import UsageError
from dreamer_jax.report.metrics_log import read_metrics
from dreamer_jax.run.workdir import WorkDir
from dreamer_jax.runtime import make_backend
from dreamer_jax.seeding import member_keys
from dreamer_jax.types import ActionSpec

KL, ENTROPY = (0.1, 0.3, 1.0), (1e-4, 1e-3)


def grid_config(seeds=2, **members):
    config = config_lib.default_config()
    config.seeds = seeds
    config.members = members
    config_lib.validate(config)
    return config


def test_order_of_members():
    """Seeds fastest, then the last list; lists are in the order of the hyperparameters."""
    config = grid_config(actor_entropy=ENTROPY, kl_scale=KL)
    assert sweep.member_seeds(config) == [0, 1] * 6
    hypers = sweep.member_hypers(config)
    assert [h.kl_scale for h in hypers] == [0.1] * 4 + [0.3] * 4 + [1.0] * 4
    assert [h.actor_entropy for h in hypers] == [1e-4, 1e-4, 1e-3, 1e-3] * 3
    assert {h.discount for h in hypers} == {config.discount}


def test_final_values_follow_the_members_own():
    config = grid_config(1, actor_entropy=ENTROPY)
    assert [h.actor_entropy_final for h in sweep.member_hypers(config)] == list(ENTROPY)
    config = grid_config(1, actor_entropy=ENTROPY, actor_entropy_final=(None, 0.0))
    assert [h.actor_entropy_final for h in sweep.member_hypers(config)] == [1e-4, 0, 1e-3, 0]
    config = grid_config(1, actor_entropy=ENTROPY)
    config.actor_entropy_final = 0.5
    assert [h.actor_entropy_final for h in sweep.member_hypers(config)] == [0.5, 0.5]


def test_without_lists_all_members_are_alike():
    config = grid_config((4, 2))
    assert sweep.members(config) == [Member(4, {}), Member(2, {})]
    assert sweep.member_hypers(config)[0] == sweep.member_hypers(config)[1]


def test_configs_of_members_have_their_own_values():
    first, *_, last = sweep.member_configs(grid_config(kl_scale=KL))
    assert (first["seed"], first["kl_scale"]) == (0, 0.1)
    assert (last["seed"], last["kl_scale"]) == (1, 1.0)
    assert "seeds" not in first and "members" not in first


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"kl_scal": KL}, "config.members.kl_scal does not exist. Did you mean 'members.kl_scale'"),
        ({"horizon": (3, 4)}, "config.members.horizon does not exist"),
        ({"kl_scale": ()}, r"config.members.kl_scale is \(\); allowed: None or a list"),
        ({"kl_scale": 0.3}, "config.members.kl_scale is 0.3; allowed: None or a list"),
        ({"discount": (0.9, 1.1)}, "each a number from 0 to 1"),
        ({"kl_scale": (1, 0.3, 1.0)}, "no repetition, but '1' is repeated"),
        ({"kl_scale": KL, "paired": True}, "has 3 values; allowed: 2, as many as config.seeds"),
    ],
)
def test_lists_that_cannot_be(lists, message):
    with pytest.raises(UsageError, match=message):
        grid_config(**lists)


def test_paired_lists_may_repeat_but_members_may_not():
    config = grid_config((3, 3, 5), kl_scale=(0.1, 0.3, 0.1), paired=True)
    assert [str(m) for m in sweep.members(config)] == [
        "seed 3, kl_scale 0.1", "seed 3, kl_scale 0.3", "seed 5, kl_scale 0.1",
    ]  # fmt: skip
    with pytest.raises(UsageError, match="'seed 3, kl_scale 0.1' is repeated"):
        grid_config((3, 3), kl_scale=(0.1, 0.1), paired=True)


def test_any_members_in_any_order_are_a_config():
    config = grid_config(3, kl_scale=KL, actor_entropy=ENTROPY)
    members, rng = sweep.members(config), np.random.default_rng(0)
    for count in (1, 2, 5, 18):
        wanted = [members[i] for i in rng.permutation(18)[:count]]
        chosen = sweep.with_members(config, wanted)
        config_lib.validate(chosen)
        again = config_lib.from_json(config_lib.to_json(chosen))
        assert sweep.members(again) == wanted
    assert not config_lib.differences(sweep.with_members(config, members), config)
    assert not config_lib.differences(config, config_lib.from_json(config_lib.to_json(config)))
    one = sweep.with_members(config, members[7:8])
    assert (one.seeds, one.members.kl_scale, one.members.paired) == ((1,), (0.3,), False)


def test_workers_are_no_more_than_environments():
    config = make_tiny_config(seeds=3)
    config.env.update({"num_envs": 2, "workers": 5})
    fewer = sweep.with_members(config, sweep.members(config)[1:])
    assert sweep.member_seeds(fewer) == [1, 2] and fewer.env.workers == 4
    config_lib.validate(fewer)


def test_other_seeds_get_every_setting():
    config = grid_config(2, kl_scale=KL)
    assert sweep.with_seeds(config, [8, 9]).members.kl_scale == KL
    some = sweep.with_members(config, [sweep.members(config)[i] for i in (0, 3)])
    assert [str(m) for m in sweep.members(sweep.with_seeds(some, [8, 9]))] == [
        "seed 8, kl_scale 0.1", "seed 9, kl_scale 0.1",
        "seed 8, kl_scale 0.3", "seed 9, kl_scale 0.3",
    ]  # fmt: skip


def test_lists_on_the_command_line(tmp_path):
    lists = ["--config.members.kl_scale=0.1,0.3", "--config.members.actor_entropy=(0.01,)"]
    status, out, err = forked_command("train", CATCH, *lists, "--dry_run", cache=tmp_path)
    assert status == 0, err
    plan = json.loads(out)
    assert plan["seeds"] == [0, 1, 0, 1]
    assert plan["hypers"] == {"kl_scale": [0.1, 0.1, 0.3, 0.3], "actor_entropy": [0.01] * 4}
    for flag, message in (
        ("--config.members.kl_scal=1,2", "Did you mean 'members.kl_scale'"),
        ("--config.members.kl_scale=1", "a list, as 1,2 on the command line"),
    ):
        status, out, err = forked_command("train", CATCH, flag, "--dry_run", cache=tmp_path)
        assert status == 2 and message in err and not out, err


def test_other_values_compile_nothing_and_are_not_in_the_program():
    """Two sweeps of other values run the same program, whose text is the same."""
    agent = make_agent(
        member_config(2), {"position": ((3,), "float32")}, ActionSpec(True, 3), make_backend("cpu")
    )
    fns, programs = make_members(agent), []
    batch = jax.tree.map(lambda x: jnp.stack([x] * 4), mock_batch("vector"))
    for lists in ({"kl_scale": (0.123457, 0.3)}, {"kl_scale": (1.0, 7.0)}):
        config = make_tiny_config(seeds=2, members=lists)
        hypers = stack_hypers(sweep.member_hypers(config))
        state = fns.init(member_keys(sweep.member_seeds(config), 1), hypers)
        np.testing.assert_allclose(state.hypers.kl_scale, np.repeat(lists["kl_scale"], 2))
        programs.append(fns.train_step.lower(state, batch).as_text())
        fns.train_step(state, batch)
    assert fns.train_step._cache_size() == 1
    assert programs[0] == programs[1]
    assert "0.123457" not in programs[0] and "1.234570e-01" not in programs[0]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Two seeds with two learning rates each, of which the second cannot move the weights."""
    workdir = tmp_path_factory.mktemp("runs") / "grid"
    config = member_config((7, 3), members={"model_lr": (1e-3, 0.0)}, steps=60)
    return workdir, train(config, workdir, make_env)


def test_rows_and_records_name_the_hyperparameters(finished):
    workdir, result = finished
    wanted = [(7, 1e-3), (3, 1e-3), (7, 0.0), (3, 0.0)]
    for row in read_metrics(workdir / "metrics.jsonl"):
        assert (row["seed"], row["hyper/model_lr"]) == wanted[row["member"]]
    assert [(r["seed"], r["hyper/model_lr"]) for r in result["members"]] == wanted
    listed = list_members(workdir)
    assert [(r["seed"], r["model_lr"]) for r in listed] == wanted


def test_members_learn_with_their_own_values_from_the_same_start(finished):
    arrays, host = newest(finished[0])
    np.testing.assert_allclose(arrays["state"].hypers.model_lr, [1e-3, 1e-3, 0, 0])
    kernels = arrays["state"].params["model"]["rssm"]["posterior_out"]["kernel"]
    gap = np.abs(kernels[:2] - kernels[2:]).max(axis=(1, 2))
    assert (gap > 1e-4).all() and (gap < 0.1).all()
    # Up to the first update both have seen the same: one seed, one stream of random numbers.
    rows = read_metrics(finished[0] / "metrics.jsonl")
    first = [row["train_return"] for row in rows if row["env_step"] == 40]
    assert first[:2] == first[2:]
    generators = [member["replay"]["generator"] for member in host["members"]]
    assert generators[0] == generators[2]


def test_a_member_of_a_grid_is_loaded_and_evaluated(finished):
    workdir, result = finished
    assert load(workdir, member=2, make_env=make_env).seed == 7
    record = evaluate(workdir, member=2, episodes=2, make_env=make_env)["members"][0]
    assert (record["member"], record["seed"], record["hyper/model_lr"]) == (2, 7, 0.0)
    with pytest.raises(UsageError, match=r"3 \(seed 3, model_lr 0.0\)"):
        load(workdir, member=4, make_env=make_env)


@pytest.mark.slow
def test_extracted_and_joined_members_keep_their_values(finished, tmp_path):
    parts = [[2], [3, 0], [1]]
    for name, members in zip("abc", parts, strict=True):
        extract(finished[0], members, tmp_path / name)
    config = WorkDir(tmp_path / "a").read_config()
    assert (config.seeds, config.members.model_lr) == ([7], [0.0])
    join(tmp_path / "a", tmp_path / "b", tmp_path / "ab")
    join(tmp_path / "ab", tmp_path / "c", tmp_path / "abc")
    members = sweep.members(WorkDir(tmp_path / "abc").read_config())
    assert [(m.seed, m.values["model_lr"]) for m in members] == [
        (7, 0.0), (3, 0.0), (7, 1e-3), (3, 1e-3),
    ]  # fmt: skip
    new, old = newest(tmp_path / "abc")[0], newest(finished[0])[0]
    order = np.array([2, 3, 0, 1])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[order]), new, old)
    with pytest.raises(UsageError, match=r"\['seed 7, model_lr 0.0'\], .* allowed: runs without"):
        join(finished[0], tmp_path / "a", tmp_path / "x")


def test_members_of_a_config_with_lists_and_of_one_without_are_joined():
    """One run lists what the other has as the value of all its members."""
    plain = member_config((7,), model_lr=0.5)
    listed = member_config((7,), members={"model_lr": (1e-3,)})
    assert sweep.joined([(listed, [0]), (plain, [0])]) == [
        Member(7, {"model_lr": 1e-3}), Member(7, {"model_lr": 0.5}),
    ]  # fmt: skip
    same = [sweep.without_members(config, ["model_lr"]) for config in (plain, listed)]
    assert config_lib.differences(*same) == []


@pytest.mark.slow
def test_added_seeds_get_every_setting(finished, tmp_path):
    extract(finished[0], [0, 2], tmp_path / "one")
    with pytest.raises(UsageError, match=r"seeds are \[7\]; allowed: seeds .* \[7\]"):
        add_members(tmp_path / "one", [7], tmp_path / "two")
    add_members(tmp_path / "one", [3], tmp_path / "two")
    rows = list_members(tmp_path / "two")
    assert [(r["seed"], r["model_lr"]) for r in rows] == [(7, 1e-3), (7, 0), (3, 1e-3), (3, 0)]
