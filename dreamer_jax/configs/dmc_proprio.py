r"""DreamerV2 on DeepMind Control from joint positions and velocities, without images.

Command:   python experiments/train.py --config=configs/dmc_proprio.py:walker_walk \
               --workdir=runs/walker
Tasks:     :<domain>_<task>  as walker_walk
Variants:  as configs/dmc_vision.py
What:      the settings of configs/dmc_vision.py, with vectors in place of images.
"""

from dreamer_jax.configs import dmc_vision


def get_config(arg: str = ""):
    """Return the config of a task.

    Args:
        arg: as for configs/dmc_vision.py.
    """
    return dmc_vision.make_config("dmc_proprio", arg, {}, suite="dmc_proprio")
