r"""DreamerV2 on MiniGrid, with small networks.

Command:   python experiments/train.py --config=configs/minigrid.py:MiniGrid-DoorKey-5x5-v0 \
               --workdir=runs/door_key
Argument:  :<id>  a MiniGrid environment, as MiniGrid-Empty-5x5-v0
Variant:   :<id>,debug  tiny networks and a short run, to exercise every part
What:      two seeds learn from 64x64 pictures of the agent's view and the direction it faces. The
           reward is given once, for reaching the goal: 1 - 0.9 * steps / limit.
           Networks and rates are those of configs/atari.py's `small`, and so is weight 100 of the
           reward's loss. No other settings have been tried here.
           Sequences are drawn across episodes, because the best ones are shorter than a sequence.
Expected:  after 50,000 steps MiniGrid-Empty-5x5-v0 returned 0.955 with both seeds, the best
           possible, and MiniGrid-DoorKey-5x5-v0 0.958 and 0.941:
           experiments/results/minigrid.md.
Runtime:   80 minutes on one core.
"""

from dreamer_jax.config.config import default_config
from dreamer_jax.configs import atari
from dreamer_jax.errors import UsageError, lookup

SMALL = {
    **atari.SMALL,
    "seeds": 2,
    "steps": 50_000,
    "prefill": 2_500,
    "pretrain": 100,
    "train_every": 8,
    "log_every": 500,
    "eval_every": 2_500,
    "eval_episodes": 10,
    "video_every": 25_000,
    "vector": {"layers": 1, "units": 32},
    "reward_transform": "none",
    "discount": 0.99,
    "actor_entropy": 3e-3,
    "replay": {"capacity": 60_000, "sampling": "time"},
}
DEBUG = {**atari.DEBUG, "vector": {"layers": 1, "units": 16}, "env": {"time_limit": 50}}
VARIANTS = {"debug": DEBUG}


def get_config(arg: str = ""):
    """Return the config of an environment.

    Args:
        arg: '<id>', followed by variants, all separated by commas.
    """
    name, *variants = arg.split(",")
    if not name:
        raise UsageError(
            "the config minigrid needs an environment, as in "
            "--config=minigrid:MiniGrid-Empty-5x5-v0"
        )
    config = default_config()
    config.task = f"minigrid:{name}"
    config.update(SMALL)
    for variant in variants:
        config.update(lookup(VARIANTS, variant, "variant of the config minigrid"))
    return config
