"""PlaNet (Hafner et al. 2019), the baseline of DreamerV1: planning by the cross-entropy method.

Command:   python experiments/train.py --config=configs/planet.py:walker_walk --workdir=runs/planet
Tasks:     :reach            the embedded task, with small networks and fewer candidates
           :<domain>_<task>  DeepMind Control from pixels, as walker_walk
Variants:  :<task>,contrastive, :<task>,reward_only and :<task>,debug as in configs/dreamer_v1.py
What:      5M frames, action repeat 2; the world model of configs/dreamer_v1.py.
Expected:  the paper's scores on DeepMind Control, 333 on average. Not reproduced at full length.
           :reach gets 26.7 and 26.9 of 28.1 in 9 minutes on two CPU cores:
           experiments/results/reach.md.
Runtime:   every action takes 10,000 imagined rollouts of 12 steps; on :reach 1,000 of 8.
"""

from dreamer_jax.configs import dreamer_v1
from dreamer_jax.errors import UsageError

PLANNING = {"horizon": 12, "iterations": 10, "candidates": 1000, "elites": 100}
SMALL_PLANNING = {"horizon": 8, "iterations": 5, "candidates": 200, "elites": 20}


def get_config(arg: str = ""):
    """Return the config of a task.

    Args:
        arg: as for configs/dreamer_v1.py, without Atari and `no_value`.
    """
    if arg.split(",")[0].split(":")[0] == "atari":
        raise UsageError("the config planet plans continuous actions; it has no atari:<game>")
    variants = dict(dreamer_v1.VARIANTS)
    del variants["no_value"]  # changes the returns of the actor, and PlaNet has none
    config = dreamer_v1.make_config("planet", arg, variants)
    config.behavior = "planet"
    config.planet.update(SMALL_PLANNING if config.task == "reach" else PLANNING)
    return config
