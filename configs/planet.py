"""PlaNet (Hafner et al. 2019) as the baseline of DreamerV1's paper: the same world model, actions
planned by the cross-entropy method.

Command:   python experiments/train.py --config=configs/planet.py:walker_walk --workdir=runs/planet
Tasks:     :reach            the embedded task, with small networks and fewer candidates
           :<domain>_<task>  DeepMind Control from pixels, as walker_walk
Variants:  variants of configs/dreamer_v1.py, separated by commas
What:      5M frames, action repeat 2, as configs/dreamer_v1.py.
Expected:  the paper's scores on DeepMind Control, on average 333. Not reproduced at full length.
Runtime:   every action takes 10,000 imagined rollouts of 12 steps.
"""

from dreamer_jax.config_file import sibling
from dreamer_jax.names import UsageError

PLANNING = {"horizon": 12, "iterations": 10, "candidates": 1000, "elites": 100}
SMALL_PLANNING = {"horizon": 8, "iterations": 5, "candidates": 200, "elites": 20}


def get_config(arg: str = ""):
    """Config of a task. Args: arg: as of configs/dreamer_v1.py, but for Atari."""
    if arg.startswith("atari:"):
        raise UsageError("configs/planet.py plans continuous actions; it has no atari:<game>")
    config = sibling(__file__, "dreamer_v1").get_config(arg)
    config.behavior = "planet"
    config.planet.update(SMALL_PLANNING if config.task == "reach" else PLANNING)
    return config
