"""Catch from pixels: the smallest task that shows the whole agent learning.

Command:   python experiments/train.py --config=configs/catch.py --workdir=runs/catch
Variant:   :debug (a few updates, to see every part work; does not learn)
What:      two seeds learn to catch a falling ball from 64x64 pixels, in one compiled program.
Expected:  a mean evaluation return of at least 0.9 for every seed; best 1.0, random play -0.6.
           Seeds 0 to 9 all reached 1.0: experiments/results/catch_ten_seeds.md.
Runtime:   about 5 minutes on two CPU cores.
"""

from dreamer_jax.config.config import default_config
from dreamer_jax.errors import lookup

VARIANTS = {"debug": {"steps": 400, "prefill": 100, "pretrain": 2, "eval_episodes": 4}}


def get_config(arg: str = ""):
    """Config of the run. Args: arg: '' or 'debug'."""
    config = default_config()
    config.task = "catch"
    config.seeds = 2
    config.update(
        {
            "steps": 12_000,
            "prefill": 1_000,
            "pretrain": 200,
            "train_every": 4,
            "batch": 8,
            "length": 12,
            "log_every": 500,
            "eval_every": 2_000,
            "eval_episodes": 50,
            "video_every": 5_000,
            "checkpoint_every": 2_500,
            "horizon": 8,
            "cnn_depth": 4,
            "rssm": {"stoch": 16, "classes": 16, "deter": 64, "hidden": 64},
            "reward_head": {"layers": 2, "units": 64},
            "discount_head": {"layers": 2, "units": 64},
            "actor": {"layers": 2, "units": 64},
            "critic": {"layers": 2, "units": 64},
            "model_lr": 1e-3,
            "actor_lr": 3e-4,
            "critic_lr": 1e-3,
            "discount": 0.95,
            "actor_entropy": 0.05,
            "replay": {"sampling": "time", "capacity": 100_000},
        }
    )
    if arg:
        config.update(lookup(VARIANTS, arg, "argument of configs/catch.py"))
    return config
