r"""DreamerV2 on DeepMind Control from pixels (Hafner et al. 2021, App. A, and released presets).

Command:   python experiments/train.py --config=configs/dmc_vision.py:walker_walk \
               --workdir=runs/walker
Tasks:     :<domain>_<task>  as walker_walk, cup_catch, quadruped_run
Variants:  :<task>,plan2explore  an actor that seeks novelty collects, the task's learns beside it
           :<task>,debug         tiny networks and a short run, to see every part work
What:      2M frames, action repeat 2, 64x64x3 images.
Expected:  the published scores. Not reproduced here at full length.
"""

from collections.abc import Mapping
from typing import Any

from dreamer_jax.config.config import default_config
from dreamer_jax.errors import UsageError, lookup

DMC = {
    "steps": 1_000_000,
    "prefill": 1_000,
    "pretrain": 100,
    "train_every": 5,
    "batch": 16,
    "length": 50,
    "log_every": 2_500,
    "eval_every": 10_000,
    "video_every": 50_000,
    "env": {"action_repeat": 2},
    "replay": {"sampling": "episodes_uniform"},
    "rssm": {"deter": 200, "hidden": 200},
    "discount_head": {"enabled": False},
    "loss_scales": {"discount": 1.0},
    "reward_transform": "none",
    "kl_scale": 1.0,
    "free_nats": 1.0,
    "discount": 0.99,
    "actor_grad": "dynamics",
    "actor_entropy": 1e-4,
    "model_lr": 3e-4,
    "actor_lr": 8e-5,
    "critic_lr": 8e-5,
}
PIXELS = {"cnn_keys": ".*", "mlp_keys": ""}
TINY = {"layers": 1, "units": 16}
VARIANTS = {
    "plan2explore": {"expl": {"behavior": "plan2explore"}},
    "debug": {
        "seeds": 2,
        "steps": 800,
        "prefill": 500,
        "pretrain": 2,
        "train_every": 20,
        "batch": 4,
        "length": 10,
        "log_every": 100,
        "eval_every": 0,
        "eval_episodes": 1,
        "video_every": 0,
        "horizon": 5,
        "cnn_depth": 4,
        "rssm": {"stoch": 8, "classes": 8, "deter": 32, "hidden": 32},
        **dict.fromkeys(("vector", "reward_head", "actor", "critic"), TINY),
        "expl": {"models": 2, **TINY},
        "replay": {"sampling": "time", "capacity": 5_000},
    },
}


def get_config(arg: str = ""):
    """Config of a task. Args: arg: '<domain>_<task>' and variants, separated by commas."""
    return make_config("dmc_vision", arg, PIXELS)


def make_config(name: str, arg: str, changes: Mapping[str, Any], *, suite: str = "dmc"):
    """Config of a task of DeepMind Control.

    Args:
        name: of the file; changes: of `DMC`; suite: `dmc`, or `dmc_proprio`, which draws nothing.
    """
    task, *variants = arg.split(",")
    if not task:
        raise UsageError(f"configs/{name}.py needs a task, as in configs/{name}.py:walker_walk")
    config = default_config()
    config.task = f"{suite}:{task}"
    config.update(DMC)
    config.update(changes)
    for variant in variants:
        config.update(lookup(VARIANTS, variant, f"variant of configs/{name}.py"))
    return config
