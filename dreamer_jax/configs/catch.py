"""Catch from pixels: the smallest task on which the whole agent learns.

Command:   python experiments/train.py --config=configs/catch.py --workdir=runs/catch
Variant:   :debug  a few updates, to exercise every part; does not learn
What:      two seeds learn to catch a falling ball from 64x64 pixels, in one compiled program.
Expected:  a mean evaluation return of at least 0.9 for every seed. The best possible is 1.0;
           random actions get -0.6.
           Seeds 0 to 9 all reached 1.0: experiments/results/catch_ten_seeds.md.
Runtime:   about 5 minutes on two CPU cores.
"""

from dreamer_jax.config.config import default_config
from dreamer_jax.configs import presets
from dreamer_jax.errors import lookup

VARIANTS = {"debug": presets.SHORT}


def get_config(arg: str = ""):
    """Return the config of the run.

    Args:
        arg: '' or 'debug'.
    """
    config = default_config()
    config.task = "catch"
    config.update(presets.SMALL)
    config.update(
        {
            "steps": 12_000,
            "prefill": 1_000,
            "pretrain": 200,
            "train_every": 4,
            "log_every": 500,
            "eval_every": 2_000,
            "video_every": 5_000,
            "video_context": 2,  # of the 8 observations of an episode
            "checkpoint_every": 2_500,
            "rssm": {"stoch": 16, "classes": 16},
            **presets.dense(["discount_head"], 2, 64),
            "model_lr": 1e-3,
            "actor_lr": 3e-4,
            "critic_lr": 1e-3,
            "actor_entropy": 0.05,
            "replay": {"capacity": 100_000},
        }
    )
    if arg:
        config.update(lookup(VARIANTS, arg, "argument of the config catch"))
    return config
