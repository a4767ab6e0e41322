"""Shipped configs: every one builds, matches its paper, and names a wrong argument."""

import gymnasium
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium import spaces

from dreamer_jax import config as config_lib
from dreamer_jax.configs import ablations, config_names, get_config, load_module
from dreamer_jax.errors import UsageError
from dreamer_jax.run.schedule import updates_due
from dreamer_jax.run.setup import dry_run

# Every argument that a config documents.
SHIPPED = {
    "catch": ["", "debug"],
    "atari": [
        "pong", "pong,release", "pong,code", "pong,small", "pong,debug", "ms_pacman",
        "skiing,search,debug",
    ],
    "montezuma": ["", "release", "debug"],
    "ablations": [
        "pong", *[f"pong,{name}" for name in ablations.ABLATIONS],
        "pong,schedules,release", "pong,no_image_gradients,debug",
    ],
    "reach": ["", "debug"],
    "cue": ["", "10,plain", "3,debug"],
    "minigrid": ["MiniGrid-Empty-5x5-v0", "MiniGrid-DoorKey-5x5-v0,debug"],
    "atari55": ["", "release"],
    "dmc20": [""],
    "hyper_grid": ["debug"],
    "catch_sweep": ["debug"],
    "dmc_vision": [
        "walker_walk", "walker_walk,small", "walker_walk,plan2explore",
        "cup_catch,plan2explore,debug",
    ],
    "dmc_proprio": [
        "walker_walk", "walker_walk,small", "walker_walk,plan2explore", "walker_walk,debug",
    ],
    "minatar": ["breakout", "freeway", "breakout,small", "freeway,vector", "space_invaders,debug"],
    "craftax": ["symbols", "pixels", "pixels,debug"],
    "bsuite": ["catch", "deep_sea,debug"],
    "humanoid": ["", "plan2explore", "debug"],
    "planet": ["reach", "walker_walk", "reach,contrastive", "reach,reward_only", "reach,debug"],
    "dreamer_v1": [
        f"{task}{variant}"
        for task in ("reach", "walker_walk", "atari:pong")
        for variant in ("", ",contrastive", ",reward_only", ",no_value", ",contrastive,debug")
    ],
}  # fmt: skip


class StandIn(gymnasium.Env):
    """An environment's spaces, enough to build an agent without its package."""

    def __init__(self, obs, actions):
        self.observation_space = spaces.Dict(obs)
        self.action_space = actions


PIXELS = {"image": spaces.Box(0, 255, (64, 64, 3), np.uint8)}
JOINTS = {"joints": spaces.Box(-np.inf, np.inf, (24,), np.float32)}
FORCES = spaces.Box(-1, 1, (6,), np.float32)
STAND_INS = {
    "reach": (PIXELS, spaces.Box(-1, 1, (2,), np.float32)),
    "dmc": (PIXELS | JOINTS, FORCES),
    "dmc_proprio": (JOINTS, FORCES),
    "minigrid": (PIXELS | {"direction": spaces.Discrete(4)}, spaces.Discrete(7)),
}


class JaxStandIn:
    """The spaces of an environment that is a JAX program."""

    def __init__(self, obs, actions):
        self.observation_space, self.action_space = obs, spaces.Discrete(actions)

    def reset(self, key):
        return key, jnp.zeros(self.observation_space.shape, self.observation_space.dtype)

    def step(self, key, state, action):
        return *self.reset(key), 0.0, False, False


JAX_STAND_INS = {
    "gymnax": JaxStandIn(spaces.Box(0, 1, (10, 10, 4), np.float32), 3),
    "craftax:Craftax-Classic-Symbolic": JaxStandIn(spaces.Box(0, 1, (1345,), np.float32), 17),
    "craftax:Craftax-Classic-Pixels": JaxStandIn(spaces.Box(0, 1, (63, 63, 3), np.float32), 17),
}


def plan_of(config):
    """Return the plan of a run, with spaces alone for environments in `STAND_INS`."""
    for start, env in JAX_STAND_INS.items():
        if config.task.startswith(start):
            return dry_run(config, env)
    kind = config.task.split(":")[0]
    if kind not in STAND_INS:
        return dry_run(config)
    return dry_run(config, lambda seed: StandIn(*STAND_INS[kind]))


def test_every_config_file_and_variant_is_listed():
    assert set(config_names()) == set(SHIPPED)
    for name, args in SHIPPED.items():
        module, _ = load_module(name)
        used = {part for arg in args for part in arg.split(",")}
        assert set(getattr(module, "VARIANTS", ())) <= used, name


@pytest.mark.parametrize(("name", "arg"), [(n, a) for n, args in SHIPPED.items() for a in args])
def test_shipped_config_builds(name, arg):
    plan = plan_of(get_config(name, arg))
    assert plan["parameters"]["world_model"] > 0
    assert plan["updates"] > 0


def test_the_pace_of_the_published_code():
    config = get_config("atari", "pong,code")
    assert (config.batch, config.train_every) == (50, 16)
    assert 12.4e6 < 4 * dry_run(config)["updates"] < 12.6e6  # the paper's are four times as many


ATARI = {  # Hafner et al. 2021, App. D
    "batch": 50, "length": 50, "prefill": 50_000, "train_every": 4, "train_updates": 1,
    "replay.capacity": 2_000_000, "env.action_repeat": 4, "env.sticky": 0.25,
    "rssm.latent": "categorical", "rssm.stoch": 32, "rssm.classes": 32, "rssm.deter": 600,
    "rssm.hidden": 600, "rssm.gru_norm": True, "act": "elu", "cnn_act": "elu", "cnn_depth": 48,
    "kl_loss": "balanced", "kl_balance": 0.8, "kl_scale": 0.1, "free_nats": 0.0,
    "reward_transform": "tanh", "discount": 0.999, "discount_head.enabled": True,
    "loss_scales.image": 1.0, "loss_scales.reward": 1.0, "loss_scales.discount": 5.0,
    "horizon": 15, "lambda_": 0.95, "actor_grad": "reinforce", "actor_entropy": 1e-3,
    "slow_critic_every": 100, "expl.noise": "none",
    "model_lr": 2e-4, "actor_lr": 4e-5, "critic_lr": 1e-4,
    "opt.clip": 100.0, "opt.eps": 1e-5, "opt.decay": 1e-6,
}  # fmt: skip
CONTROL = ATARI | {  # the same, and the authors' release
    "batch": 16, "prefill": 1_000, "pretrain": 100, "train_every": 5, "env.action_repeat": 2,
    "rssm.deter": 200, "rssm.hidden": 200, "kl_scale": 1.0, "free_nats": 1.0,
    "reward_transform": "none", "discount": 0.99, "discount_head.enabled": False,
    "loss_scales.discount": 1.0, "actor_grad": "dynamics", "actor_entropy": 1e-4,
    "model_lr": 3e-4, "actor_lr": 8e-5, "critic_lr": 8e-5,
}  # fmt: skip
V1 = CONTROL | {  # Hafner et al. 2020, App. A, and its release
    "batch": 50, "prefill": 2_500, "train_every": 500, "train_updates": 100,
    "rssm.latent": "gaussian", "rssm.stoch": 30, "rssm.gru_norm": False, "rssm.min_std": 0.1,
    "rssm.std_act": "softplus", "cnn_act": "relu", "cnn_depth": 32, "kl_loss": "plain",
    "free_nats": 3.0, "loss_scales.discount": 5.0,  # not used without a head
    "actor.dist": "tanh_normal", "actor_entropy": 0.0, "slow_critic_every": 1,
    "replay.capacity": 2_500_000, "expl.noise": "normal", "expl.amount": 0.3,
    "model_lr": 6e-4, "opt.eps": 1e-7, "opt.decay": 0.0,
}  # fmt: skip
V1_ATARI = V1 | {
    "replay.capacity": 2_000_000, "prefill": 5_000, "train_every": 250,
    "env.action_repeat": 4, "kl_scale": 0.1,
    "reward_transform": "tanh", "discount_head.enabled": True, "loss_scales.discount": 10.0,
    "horizon": 10, "actor.dist": "onehot", "expl.noise": "epsilon_greedy", "expl.amount": 0.4,
    "expl.amount_final": 0.1, "expl.anneal_updates": 200_000,
}  # fmt: skip
PLANET = {  # Hafner et al. 2019, Algorithm 2
    "behavior": "planet", "planet.horizon": 12, "planet.iterations": 10,
    "planet.candidates": 1000, "planet.elites": 100,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "arg", "expected"),
    [
        ("atari", "pong", ATARI),
        ("montezuma", "", ATARI | {"discount": 0.99}),
        ("atari", "pong,release", ATARI | {"batch": 16, "train_every": 16}),
        ("dmc_vision", "walker_walk", CONTROL),
        ("dmc_proprio", "walker_walk", CONTROL),
        ("humanoid", "", CONTROL | {"actor_entropy": 1e-5, "kl_scale": 2.0}),
        ("dreamer_v1", "walker_walk", V1),
        ("dreamer_v1", "atari:pong", V1_ATARI),
        ("planet", "walker_walk", V1 | PLANET),
    ],
)
def test_settings_are_those_of_the_papers(name, arg, expected):
    found = dict(config_lib.flatten(get_config(name, arg)))
    assert {key: found[key] for key in expected} == expected


def test_atari_is_the_paper():
    plan = dry_run(get_config("atari", "pong"))
    assert plan["frames"] == 200_000_000
    # 12.5M updates in 200M frames, but for the prefill.
    assert plan["updates"] == 1 + (50_000_000 - 50_000) // 4
    assert 9.8e9 < plan["replay_bytes"] < 9.9e9  # 2.4 million records of 4,109 bytes
    assert plan["parameters"] == {
        "encoder": 1_549_776,
        "rssm": 5_664_848,
        "decoder": 10_497_553,
        "reward": 1_131_601,
        "discount": 1_131_601,
        "world_model": 19_975_379,
        "actor": 1_138_418,
        "critic": 1_131_601,
    }


def test_dreamer_v1_is_the_paper():
    config = get_config("dreamer_v1", "walker_walk")
    assert config.task == "dmc:walker_walk"
    # 5 episodes of 1000 frames, then 100 updates and an episode in turn.
    assert config.prefill * config.env.action_repeat == 5_000
    assert [updates_due(config, step) for step in (2_499, 2_500, 2_999, 3_000)] == [
        0,
        100,
        100,
        200,
    ]
    plan = plan_of(config)
    assert plan["frames"] == 5_000_000
    # Features of 30 + 200; three layers of 300.
    head = 230 * 300 + 2 * 300 * 300 + 3 * 300
    assert plan["parameters"]["reward"] == plan["parameters"]["critic"] == head + 301
    assert plan["parameters"]["actor"] == head + 301 * 12
    # 3x3 gates of 200 on inputs of 200 and a state of 200, without a norm; layers of 200.
    layers = (36 * 200 + 200) + (200 * 200 + 200) + (1224 * 200 + 200) + 2 * (200 * 60 + 60)
    assert plan["parameters"]["rssm"] == 400 * 600 + 600 + layers
    atari = get_config("dreamer_v1", "atari:pong")
    assert (atari.horizon, atari.kl_scale, atari.actor_grad) == (10, 0.1, "dynamics")
    assert (atari.expl.amount, atari.expl.amount_final) == (0.4, 0.1)
    assert atari.discount_head.enabled and atari.reward_transform == "tanh"


def test_dmc_vision_has_the_published_parameters():
    """6 actions, 64x64x3 images alone."""
    plan = plan_of(get_config("dmc_vision", "walker_walk"))
    assert plan["frames"] == 2_000_000
    counts = {name: plan["parameters"][name] for name in ("world_model", "actor", "critic")}
    assert counts == {"world_model": 13_656_772, "actor": 976_012, "critic": 971_601}
    assert "discount" not in plan["parameters"]


@pytest.mark.parametrize(
    ("name", "arg"),
    [
        ("dmc_vision", "walker_walk"),
        ("dmc_proprio", "walker_walk"),
        ("humanoid", ""),
        ("dreamer_v1", "walker_walk"),
        ("dreamer_v1", "atari:pong"),
        ("planet", "walker_walk"),
    ],
)
def test_the_ends_of_episodes_are_favoured_by_dreamer_v2_on_atari_alone(name, arg):
    assert get_config(name, arg).replay.sampling == "episodes_uniform"
    assert get_config("atari", "pong").replay.sampling == "episodes"


def test_dmc_configs_differ_in_what_they_name():
    vision = get_config("dmc_vision", "humanoid_walk")
    for (name, arg), changed in {
        ("dmc_proprio", "humanoid_walk"): {"task", "mlp_keys", "vector.normalize"},
        ("humanoid", ""): {"actor_entropy", "kl_scale"},
        ("dmc_vision", "humanoid_walk,plan2explore"): {"expl.behavior"},
    }.items():
        lines = config_lib.differences(vision, get_config(name, arg))
        assert {line.split(":")[0].strip() for line in lines} == changed
    humanoid = get_config("humanoid")
    assert (humanoid.actor_entropy, humanoid.kl_scale) == (1e-5, 2.0)


def test_variants_change_what_they_say():
    release = get_config("atari", "pong,release")
    assert (release.batch, release.train_every) == (16, 16)
    assert dry_run(get_config("atari", "pong,search"))["members"] == 4 * 4 * 2
    assert get_config("montezuma").discount == 0.99
    assert get_config("montezuma").task == "atari:montezuma_revenge"


@pytest.mark.parametrize(
    ("name", "arg", "message"),
    [
        ("atri", "pong", "config is 'atri'; choose one of: ablations, .* Did you mean 'atari'"),
        ("presets", "", "config is 'presets'; choose one of"),
        ("atari", "", "needs a game"),
        ("atari", "pnog", "pong"),
        ("atari", "pong,relase", "release"),
        ("montezuma", "quick", "debug"),
        ("catch", "debgu", "debug"),
        ("reach", "debgu", "debug"),
        ("planet", "", "the config planet needs a task, as in --config=planet:reach"),
        ("planet", "atari:pong", "continuous"),
        ("planet", "atari", "continuous"),
        ("planet", "reach,no_value", "config planet is 'no_value'; choose one of: c"),
        ("dmc_vision", "", "needs a task"),
        ("dmc_proprio", "walker_walk,debgu", "debug"),
        ("humanoid", "pixels", "debug"),
        ("ablations", "", "needs a game, and an ablation"),
        ("atari55", "relase", "release"),
        ("dmc20", "debgu", "debug"),
        ("hyper_grid", "debgu", "debug"),
        ("catch_sweep", "debgu", "debug"),
        ("ablations", "pong,no_layernorm", "no_layer_norm"),
        ("dreamer_v1", "", "needs a task"),
        ("dreamer_v1", "reachh", "is 'reachh'; allowed: reach, or <domain>_<task>"),
        ("dreamer_v1", "atari:pnog", "pong"),
        ("dreamer_v1", "reach,debgu", "debug"),
    ],
)
def test_bad_arguments_are_named(name, arg, message):
    with pytest.raises(UsageError, match=message):
        get_config(name, arg)
