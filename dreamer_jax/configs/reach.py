"""Reach from pixels: the smallest task with continuous actions.

Command:   python experiments/train.py --config=configs/reach.py --workdir=runs/reach
Variant:   :debug  a few updates, to exercise every part; does not learn
What:      two seeds learn to move a dot to a target from 64x64 pixels, with DreamerV2's settings
           for continuous control.
           Other agents on this task: configs/dreamer_v1.py:reach, configs/planet.py:reach.
Expected:  mean evaluation returns of 26.3 and 26.4 (seeds 0 and 1) after 4,000 steps, 25.6 after
           2,000: experiments/results/reach.md. The best possible is 28.1; random actions get 7.3.
Runtime:   6 minutes on two busy CPU cores, including compilation.
"""

from dreamer_jax.config.config import default_config
from dreamer_jax.configs import presets
from dreamer_jax.errors import lookup

# Shared by every agent on this task.
SMALL = {
    **presets.SMALL,
    "steps": 4_000,
    "log_every": 200,
    "eval_every": 1_000,
    "video_every": 2_000,
    "checkpoint_every": 2_000,
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
VARIANTS = {"debug": presets.SHORT}


def get_config(arg: str = ""):
    """Return the config of the run.

    Args:
        arg: '' or 'debug'.
    """
    config = default_config()
    config.task = "reach"
    config.update(SMALL)
    config.update(DREAMER_V2)
    if arg:
        config.update(lookup(VARIANTS, arg, "argument of the config reach"))
    return config
