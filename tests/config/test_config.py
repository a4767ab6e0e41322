"""Configs: validation that says what is wrong, JSON, and what is due when."""

from fractions import Fraction

import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax import config as config_lib
from dreamer_jax.config import default_config, from_json, normalize, sweep, to_json, validate
from dreamer_jax.configs import get_config
from dreamer_jax.errors import UsageError
from dreamer_jax.run.schedule import updates_due, video_length, work_due


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("batch", 0, "config.batch is 0; allowed: a whole number of at least 1"),
        ("batch", 2.5, "config.batch is 2.5"),
        ("batch", True, "config.batch is True"),
        ("discount", 1.5, "a number from 0 to 1"),
        ("kl_scale", float("nan"), "config.kl_scale is nan"),
        ("model_lr", -1e-4, "config.model_lr"),
        ("act", "elo", "Did you mean 'elu'"),
        ("replay.sampling", "episode", "Did you mean 'episodes'"),
        ("cnn_keys", "(", "a regular expression"),
        ("seeds", 0, "config.seeds is 0"),
        ("seeds", (1, 1), "no repetition, but '1' is repeated"),
        ("seeds", (-1,), "whole numbers from 0"),
        ("seeds", "3", "config.seeds is '3'"),
        ("norm", 1, "True or False"),
        ("norm", "False", "config.norm is 'False'; allowed: True or False.$"),
        ("actor_entropy_final", -1.0, "None or a finite number"),
        ("prefill", 10, "at least config.length = 50"),
        ("steps", 100, "at least config.prefill"),
        ("video_context", 50, "less than config.video_length = 50"),
        ("replay.capacity", 20, "at least config.length"),
        ("planet.elites", 1001, "at most config.planet.candidates = 1000"),
        ("planet.elites", 1, "config.planet.elites is 1; allowed: a whole number of at least 2"),
        ("objective", "contrastiv", "Did you mean 'contrastive'"),
        ("behavior", "planned", "Did you mean 'planet'"),
        ("actor.dist", "tanhnormal", "Did you mean 'tanh_normal'"),
        ("expl.noise", "normall", "Did you mean 'normal'"),
        ("expl.models", 1, "config.expl.models is 1; allowed: a whole number of at least 2"),
        ("expl.until", 50_000, "config.prefill = 50000, whose actions are random"),
        ("env.workers", 5, "at most 1, one per environment"),
    ],
)
def test_validation_names_key_value_and_what_is_allowed(key, value, message):
    config = config_lib.default_config()
    with config.ignore_type():
        config.update_from_flattened_dict({key: value})
    with pytest.raises(UsageError, match=message.replace("(", r"\(")):
        config_lib.validate(config)


@pytest.mark.parametrize("name", ["amount", "amount_final"])
def test_epsilon_is_a_probability(name):
    config = config_lib.default_config()
    config.expl.noise = "epsilon_greedy"
    config.expl[name] = 1.0
    config_lib.validate(config)
    config.expl[name] = 1.5
    with pytest.raises(UsageError, match=f"config.expl.{name} is 1.5; allowed: at most 1"):
        config_lib.validate(config)
    config.expl.noise = "normal"  # a standard deviation
    config_lib.validate(config)


def test_steps_on_the_device_are_counted_in_32_bits():
    config = config_lib.default_config()
    config.update({"loop": "device", "steps": 10**9})
    config_lib.validate(config)
    config.steps = 10**9
    for name in ("steps", "pretrain", "train_every"):
        too_large = config.copy_and_resolve_references()
        too_large[name] = 10**9 + 1
        message = f"config.{name} is 1000000001; allowed: at most 1000000000"
        with pytest.raises(UsageError, match=message):
            config_lib.validate(too_large)
    config.train_updates = 5
    with pytest.raises(UsageError, match="make 1250000001 updates; allowed: at most 1000000000"):
        config_lib.validate(config)


def test_lists_of_what_no_member_uses_are_refused():
    config = config_lib.default_config()
    config.behavior = "planet"
    with config.ignore_type():
        config.members.model_lr = (1e-3, 1e-4)
        config_lib.validate(config)
        config.members.actor_lr = (1e-3, 1e-4)
    with pytest.raises(UsageError, match="members.actor_lr .* do not differ.*allowed: model_lr"):
        config_lib.validate(config)
    config.expl.behavior = "plan2explore"  # has an actor
    config_lib.validate(config)


def test_unknown_and_missing_keys():
    config = config_lib.default_config().unlock()
    config.batchsize = 3
    with pytest.raises(UsageError, match=r"config.batchsize does not exist. Did you mean 'batch'"):
        config_lib.validate(config)
    del config.batchsize, config.horizon
    with pytest.raises(UsageError, match="config.horizon is missing"):
        config_lib.validate(config)


def test_all_errors_at_once():
    config = config_lib.default_config()
    config.batch, config.horizon = 0, 0
    with pytest.raises(UsageError, match=r"(?s)config.batch.*config.horizon"):
        config_lib.validate(config)


def test_json_round_trip():
    config = get_config("atari", "pong,debug")
    config.seeds = (3, 5)
    again = config_lib.from_json(config_lib.to_json(config))
    assert not config_lib.differences(config, again)
    assert sweep.member_seeds(again) == [3, 5]
    assert config_lib.to_json(again) == config_lib.to_json(config)


def test_values_become_plain_and_can_be_saved():
    given = default_config()
    with given.ignore_type():
        given.steps, given.seeds = np.int64(100_000), range(1, 4)
        given.model_lr, given.norm = np.float32(0.5), np.bool_(True)
        given.train_every, given.replay.slack = 8.0, jnp.array(7)
        given.members = {"kl_scale": np.array([0.5, 1]), "actor_lr": [Fraction(1, 4)]}
    config = normalize(given)
    validate(config)
    assert from_json(to_json(config)) == from_json(to_json(normalize(config)))
    found = [config.steps, config.model_lr, config.norm, config.train_every, config.replay.slack]
    assert found == [100_000, 0.5, True, 8, 7]
    assert [type(value) for value in found] == [int, float, bool, int, int]
    assert config.seeds == (1, 2, 3) and config.members.kl_scale == (0.5, 1.0)
    assert config.members.actor_lr == [0.25] and config.is_locked
    assert given.seeds == range(1, 4)  # what was given is not changed


def test_arguments_of_environments_are_as_saved():
    kwargs = {"size": (5, 5), "costs": {1: (0.5, np.float32(2))}}
    config = normalize({"task": "gym:X", "env": {"kwargs": kwargs}})
    validate(config)
    assert config.env.kwargs == {"size": [5, 5], "costs": {"1": [0.5, 2.0]}}
    assert not config_lib.differences(from_json(to_json(config)), config)
    for wrong in ({"a": {1}}, {"a": np.nan}, {1: 2}):
        with pytest.raises(UsageError, match="config.env.kwargs is"):
            validate(normalize({"task": "gym:X", "env": {"kwargs": wrong}}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({1: 2}, "config.1 does not exist"),
        ({"env": {2: 3}}, "config.env.2 does not exist"),
        ({"kl_scale": 10**400}, "config.kl_scale is 1000"),
        ({"cnn_keys": "a{99999999999999}"}, "config.cnn_keys is 'a{9.*a regular expression"),
        ({"max_nonfinite": 2**31}, "config.max_nonfinite is 2147483648; allowed: .* from 1 to"),
    ],
)
def test_odd_keys_and_values_are_named(given, message):
    with pytest.raises(UsageError, match=message):
        validate(normalize(given))


def test_nested_dicts_are_configs():
    config = normalize({"steps": 1e5, "replay": {"sampling": "time"}, "seeds": {"a"}})
    assert (config.steps, config.replay.sampling, config.batch) == (100_000, "time", 50)
    with pytest.raises(UsageError, match="config.seeds is {'a'}"):
        validate(config)
    with pytest.raises(UsageError, match="config.replay.samplin does not exist. Did you mean"):
        normalize({"replay": {"samplin": "time"}})
    with pytest.raises(UsageError, match="the config is 'catch'; allowed: a ConfigDict"):
        normalize("catch")
    with pytest.raises(UsageError, match="config.steps is 1.5; allowed: a whole number"):
        validate(normalize({"steps": 1.5}))


def test_keys_that_are_not_known_cannot_be_read():
    content = config_lib.to_json(config_lib.default_config()).replace('"horizon"', '"horizn"')
    with pytest.raises(UsageError, match="config.horizn does not exist.*Did you mean 'horizon'"):
        config_lib.from_json(content)
    with pytest.raises(ValueError, match="it is a JSON list; allowed: an object"):
        config_lib.from_json("[]")


def test_differences_leave_out_what_may_change():
    old, new = config_lib.default_config(), config_lib.default_config()
    new.steps, new.log_every = 60_000, 1
    assert config_lib.differences(old, new) == []
    new.horizon = 10
    assert config_lib.differences(old, new) == ["  horizon: 15 -> 10"]


def test_every_key_has_a_valid_default_and_a_meaning():
    for name, key in config_lib.KEYS.items():
        assert key.kind.check(key.default), name
        assert key.meaning and key.kind.allowed, name


def test_work_due(tiny_config):
    config = tiny_config  # steps 200, log_every 40, checkpoint_every 50
    config.update({"eval_every": 60, "video_every": 0, "env": {"num_envs": 4}})
    due = {step: work_due(config, step) for step in range(4, 204, 4)}
    assert {step: names for step, names in due.items() if names} == {
        40: ["log"], 52: ["checkpoint"], 60: ["evaluation"], 80: ["log"], 100: ["checkpoint"],
        120: ["log", "evaluation"], 152: ["checkpoint"], 160: ["log"], 180: ["evaluation"],
        200: ["log", "updates", "evaluation", "pictures", "checkpoint"],
    }  # fmt: skip


def test_videos_are_as_long_as_the_replay_allows_when_the_first_is_drawn(tiny_config):
    config = tiny_config  # steps 200, prefill 40, a replay of 1000
    config.update({"video_length": 50, "video_every": 0})
    lengths = []
    for every, envs, capacity in ((0, 1, 1000), (0, 8, 1000), (20, 1, 1000), (0, 1, 30)):
        config.update({"video_every": every, "env": {"num_envs": envs}})
        config.replay.capacity = capacity
        lengths.append(video_length(config))
    assert lengths == [50, 25, 40, 30]


def test_hypers_per_member():
    config = config_lib.default_config()
    config.seeds = 3
    config.actor_entropy_final = 0.0
    hypers = sweep.member_hypers(config)
    assert len(hypers) == 3
    assert hypers[0].actor_entropy_final == 0.0
    assert hypers[0].actor_grad_mix_final == config.actor_grad_mix


def test_updates_due(tiny_config):
    config = tiny_config  # prefill 40, pretrain 1, train_every 8
    steps = (0, 39, 40, 47, 48, 200)
    assert [updates_due(config, step) for step in steps] == [0, 0, 1, 1, 2, 21]
    config.train_updates, config.pretrain = 100, 7
    assert [updates_due(config, step) for step in steps] == [0, 0, 7, 7, 107, 2007]
