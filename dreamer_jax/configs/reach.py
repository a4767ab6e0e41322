"""Reach from pixels: the smallest task with continuous actions.

Command:   python experiments/train.py --config=configs/reach.py --workdir=runs/reach
Variant:   :debug (a few updates, to see every part work; does not learn)
What:      two seeds of DreamerV2 for continuous control move a dot to a target in 64x64 pixels.
           The best possible mean return is 28.1, random actions get 7.3.
           Others on the same task: configs/dreamer_v1.py:reach and configs/planet.py:reach.
Expected:  26.3 and 26.4 (seeds 0 and 1) after 4,000 steps, 25.6 after 2,000:
           experiments/results/reach.md.
Runtime:   6 minutes on two CPU cores, with compilation, other work running.
"""

from dreamer_jax.config.config import default_config
from dreamer_jax.errors import lookup

# What every agent has on this task: small networks, and a batch that fits short episodes.
SMALL = {
    "seeds": 2,
    "steps": 4_000,
    "batch": 8,
    "length": 12,
    "log_every": 200,
    "eval_every": 1_000,
    "eval_episodes": 50,
    "video_every": 2_000,
    "checkpoint_every": 2_000,
    "horizon": 8,
    "cnn_depth": 4,
    "rssm": {"deter": 64, "hidden": 64},
    "reward_head": {"layers": 2, "units": 64},
    "actor": {"layers": 2, "units": 64},
    "critic": {"layers": 2, "units": 64},
    "discount": 0.95,
    "replay": {"sampling": "time", "capacity": 10_000},
}
DREAMER_V2 = {
    "prefill": 1_000,
    "pretrain": 200,
    "rssm": {"stoch": 16, "classes": 16},
    "discount_head": {"enabled": False},
    "loss_scales": {"discount": 1.0},
    "reward_transform": "none",
    "actor_grad": "dynamics",
    "actor_entropy": 1e-4,
    "kl_scale": 1.0,
    "free_nats": 1.0,
    "model_lr": 1e-3,
    "actor_lr": 3e-4,
    "critic_lr": 1e-3,
}
DEBUG = {"steps": 400, "prefill": 100, "pretrain": 2, "eval_episodes": 4}
VARIANTS = {"debug": DEBUG}


def get_config(arg: str = ""):
    """Config of the run. Args: arg: '' or 'debug'."""
    config = default_config()
    config.task = "reach"
    config.update(SMALL)
    config.update(DREAMER_V2)
    if arg:
        config.update(lookup(VARIANTS, arg, "argument of configs/reach.py"))
    return config
