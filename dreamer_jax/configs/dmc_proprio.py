r"""DreamerV2 on DeepMind Control from joint positions and velocities, without images.

Command:   python experiments/train.py --config=configs/dmc_proprio.py:walker_walk \
               --workdir=runs/walker
Tasks:     :<domain>_<task>  as walker_walk
Variants:  as configs/dmc_vision.py
What:      2M frames, action repeat 2; otherwise as configs/dmc_vision.py.
"""

from dreamer_jax.configs import dmc_vision


def get_config(arg: str = ""):
    """Return the config of a task.

    Args:
        arg: as for configs/dmc_vision.py.
    """
    return dmc_vision.make_config("dmc_proprio", arg, {}, suite="dmc_proprio")
