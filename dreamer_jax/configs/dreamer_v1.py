"""DreamerV1 (Hafner et al. 2020): Gaussian latents, and gradients of values train the actor.

Command:   python experiments/train.py --config=configs/dreamer_v1.py:walker_walk --workdir=runs/v1
Tasks:     :reach            the embedded task, with small networks
           :<domain>_<task>  DeepMind Control from pixels, as walker_walk
           :atari:<game>     as atari:pong; straight-through actor, epsilon-greedy exploration,
                             horizon 10, KL weight 0.1
Variants:  :<task>,contrastive  InfoNCE in place of reconstruction
           :<task>,reward_only  rewards alone train the world model
           :<task>,no_value     the actor maximises the sum of imagined rewards
           :<task>,debug        tiny networks and a short run, to exercise every part
What:      5M frames, action repeat 2; 100 updates after every collected episode.
Expected:  the paper's scores on DeepMind Control, 823 on average. Not reproduced at full length.
           :reach gets 26.6 and 26.9 of 28.1 (with contrastive 23.7 and 24.9) in 4 to 5 minutes on
           two CPU cores: experiments/results/reach.md.

Where the paper is silent, this follows the authors' release: the RSSM's hidden layers have 200
units, Adam's epsilon is 1e-7, and the discount loss has weight 10. Where they differ, it follows
the release in adding exploration noise to a sampled action, not to the mode. It differs from both
in four points: the GRU is DreamerV2's without layer normalisation, actor and critic also learn
from the start states of imagination, Atari frames are grey, and greedy actions are the median of
the actor's distribution, where the release takes the likeliest of 100 samples.
"""

from collections.abc import Mapping
from typing import Any

from dreamer_jax.config.config import default_config
from dreamer_jax.configs import presets, reach
from dreamer_jax.envs.atari import find_rom
from dreamer_jax.errors import UsageError, lookup

DENSE = {"layers": 3, "units": 300}
AGENT = {
    "batch": 50,
    "length": 50,
    "cnn_depth": 32,
    "cnn_act": "relu",
    "vector": DENSE,
    "reward_head": DENSE,
    "discount_head": {"enabled": False, **DENSE},
    "actor": {"dist": "tanh_normal", **DENSE},
    "critic": DENSE,
    "rssm": {
        "latent": "gaussian",
        "stoch": 30,
        "std_act": "softplus",
        "min_std": 0.1,
        "deter": 200,
        "hidden": 200,
        "gru_norm": False,
    },
    "reward_transform": "none",
    "kl_loss": "plain",
    "kl_scale": 1.0,
    "free_nats": 3.0,
    "horizon": 15,
    "discount": 0.99,
    "actor_grad": "dynamics",
    "actor_entropy": 0.0,
    "slow_critic_every": 1,
    "expl": {"noise": "normal", "amount": 0.3},
    "model_lr": 6e-4,
    "actor_lr": 8e-5,
    "critic_lr": 8e-5,
    "opt": {"clip": 100.0, "eps": 1e-7, "decay": 0.0},
    "replay": {"sampling": "episodes_uniform"},
}
UPDATES = {"pretrain": 100, "train_updates": 100}  # before the first episode, and after each
CONTROL = {
    **UPDATES,
    "mlp_keys": "",
    "steps": 2_500_000,
    # Episodes have 1000 frames: five with random actions, then one per round of updates.
    "prefill": 5 * 500,
    "train_every": 500,
    "env": {"action_repeat": 2},
    "replay": {"capacity": 2_500_000},
    "log_every": 2_500,
    "eval_every": 25_000,
    "video_every": 125_000,
}
ATARI = {
    **UPDATES,
    # Episodes differ in length: about five with random actions, then updates as in the release.
    "prefill": 5_000,
    "train_every": 250,
    "env": {"action_repeat": 4},
    "horizon": 10,
    "kl_scale": 0.1,
    "reward_transform": "tanh",
    "discount_head": {"enabled": True},
    "loss_scales": {"discount": 10.0},
    "actor": {"dist": "onehot"},
    "expl": {
        "noise": "epsilon_greedy",
        "amount": 0.4,
        "amount_final": 0.1,
        "anneal_updates": 200_000,
    },
}
REACH = {
    # Updates follow every episode of 30 steps, as in the paper, but only one per 3 steps.
    "prefill": 900,
    "pretrain": 200,
    "train_every": 30,
    "train_updates": 10,
    "model_lr": 1e-3,
    "actor_lr": 3e-4,
    "critic_lr": 1e-3,
}
DEBUG = {
    **presets.TINY,
    **presets.dense(presets.HEADS, 1, 16),
    "steps": 1_200,
    "prefill": 1_000,
    "train_every": 50,
    "train_updates": 2,
    "log_every": 100,
    "env": {"time_limit": 500},
}
VARIANTS = {
    "contrastive": {"objective": "contrastive"},
    "reward_only": {"objective": "reward_only"},
    "no_value": {"returns": "reward_sum"},
    "debug": DEBUG,
}


def get_config(arg: str = ""):
    """Return the config of a task.

    Args:
        arg: '<task>', followed by variants, all separated by commas.
    """
    return make_config("dreamer_v1", arg, VARIANTS)


def make_config(name: str, arg: str, allowed: Mapping[str, Mapping[str, Any]]):
    """Return the config of a task.

    Args:
        name: name of the config, for error messages.
        arg: '<task>', followed by variants, all separated by commas.
        allowed: the settings of each variant, by its name.
    """
    task, *variants = arg.split(",")
    if not task:
        raise UsageError(f"the config {name} needs a task, as in --config={name}:reach")
    config = default_config()
    config.update(AGENT)
    kind, _, game = task.partition(":")
    if kind == "atari":
        find_rom(game)
        config.task = task
        config.update(ATARI)
    elif task == "reach":
        config.task = task
        config.update(reach.SMALL)
        config.update(REACH)
    elif "_" not in task:
        tasks = "reach, or <domain>_<task> such as walker_walk"
        raise UsageError(f"task of the config {name} is {task!r}; allowed: {tasks}")
    else:
        config.task = f"dmc:{task}"
        config.update(CONTROL)
    for variant in variants:
        config.update(lookup(allowed, variant, f"variant of the config {name}"))
    return config
