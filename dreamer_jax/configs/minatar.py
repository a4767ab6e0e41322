"""DreamerV2 on MinAtar (Young & Tian 2019), the whole loop on the device.

Command:   python experiments/train.py --config=configs/minatar.py:breakout --workdir=runs/breakout
Games:     :asterix, breakout, freeway, seaquest, space_invaders
Variants:  :<game>          K. Young's settings (github.com/kenjyoung/dreamerv2_JAX), but for two of
                            his three convolutions, the decoder's and an entropy bonus of posteriors
           :<game>,small    networks and batches for CPU cores: Z = K = 16, D = 128, layers of 128
                            units, B = 16, L = 25, one update per 25 steps. That makes 2.5 times
                            fewer updates, for which learning rates are 2.5 times as high. Chosen
                            by the time of an update before the first run; nothing else was tried
           :<game>,vector   the board as a vector, for an MLP, in place of a grid; after `small`
           :<game>,debug    tiny networks and a short run, to exercise every part
What:      the games of gymnax (pip install 'dreamer-jax[gymnax]'), with their minimal actions and
           without sticky actions. The board of 10x10 cells and C layers is read as a grid: a
           convolution encodes it, and an MLP predicts its cells as Bernoulli variables.
Expected:  breakout,small: 5.3 and 5.5 (two seeds; published for K. Young's agent: about 5).
           freeway,small: the policy seems to always go up, 16.8 and 10.4 (published: about 29): the
           rewards are not learned in so few updates. See experiments/results/minatar.md
Tried:     breakout,small,vector: 6.1 and 1.5
Runtime:   small: two seeds take 60 to 76 minutes on one core of an Intel Xeon
"""

from dreamer_jax.config.config import default_config
from dreamer_jax.configs import presets
from dreamer_jax.errors import UsageError, lookup

GAMES = {
    "asterix": "Asterix",
    "breakout": "Breakout",
    "freeway": "Freeway",
    "seaquest": "Seaquest",
    "space_invaders": "SpaceInvaders",
}
SETTINGS = {
    "loop": "device",
    "seeds": 2,
    "steps": 300_000,
    "prefill": 5_000,
    "train_every": 10,
    "log_every": 2_500,
    "eval_every": 25_000,
    "video_every": 25_000,
    "horizon": 10,
    "rssm": {"deter": 200, "hidden": 200},
    "env": {"grids": ".*"},
    "grid": {"layers": 3, "units": 200},
    **presets.dense(presets.HEADS, 3, 200),
    "discount": 0.99,
    "reward_transform": "none",
    "loss_scales": {"discount": 1.0},
    "replay": {"sampling": "time", "capacity": 100_000},
}
SMALL = {
    "train_every": 25,
    "batch": 16,
    "length": 25,
    "rssm": {"stoch": 16, "classes": 16, "deter": 128, "hidden": 128},
    "grid": {"layers": 2, "units": 128},
    **presets.dense(presets.HEADS, 2, 128),
    "model_lr": 5e-4,
    "actor_lr": 1e-4,
    "critic_lr": 2.5e-4,
}
VECTOR = {"env": {"grids": None}, "vector": {"layers": 2, "units": 128}}
DEBUG = {
    **presets.TINY_CATEGORICAL,
    **presets.dense(presets.HEADS, 1, 32),
    "grid": {"layers": 1, "units": 32},
    "steps": 1_500,
    "prefill": 500,
    "train_every": 50,
    "log_every": 250,
}
VARIANTS = {"small": SMALL, "vector": VECTOR, "debug": DEBUG}


def get_config(arg: str = ""):
    """Return the config of a game.

    Args:
        arg: '<game>', followed by variants, all separated by commas.
    """
    game, *variants = arg.split(",")
    if not game:
        raise UsageError("the config minatar needs a game, as in --config=minatar:breakout")
    config = default_config()
    config.task = f"gymnax:{lookup(GAMES, game, 'MinAtar game')}-MinAtar"
    config.update(SETTINGS)
    for variant in variants:
        config.update(lookup(VARIANTS, variant, "variant of the config minatar"))
    return config
