"""DreamerV2 on MinAtar (Young & Tian 2019), the whole loop on the device.

Command:   python experiments/train.py --config=configs/minatar.py:breakout --workdir=runs/breakout
Games:     :asterix, breakout, freeway, seaquest, space_invaders
Variant:   :<game>,debug  tiny networks and a short run, to exercise every part
What:      the games of gymnax (pip install 'dreamer-jax[gymnax]'), with their minimal actions and
           without sticky actions. A board of 10x10 cells with C layers is observed as a vector of
           its 100 C numbers. Networks and intervals are those with which K. Young trained
           DreamerV2 in one program (github.com/kenjyoung/dreamerv2_JAX), but for his convolutions,
           Bernoulli decoder and entropy bonus of posteriors.
Expected:  not run yet at full length.
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
    "grid": {"layers": 2, "units": 128},
    **presets.dense(presets.HEADS, 3, 200),
    "discount": 0.99,
    "reward_transform": "none",
    "loss_scales": {"discount": 1.0},
    "replay": {"sampling": "time", "capacity": 100_000},
}
DEBUG = {
    **presets.TINY_CATEGORICAL,
    **presets.dense(presets.HEADS, 1, 32),
    "grid": {"layers": 1, "units": 32},
    "steps": 1_500,
    "prefill": 500,
    "train_every": 50,
    "log_every": 250,
}
VARIANTS = {"debug": DEBUG}


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
