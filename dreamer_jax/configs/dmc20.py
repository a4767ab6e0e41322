r"""DreamerV2 on the 20 tasks of DeepMind Control from pixels, with five seeds of each: 20 jobs.

Command:   python experiments/sweep.py --config=configs/dmc20.py --workdir=runs/dmc20
Variants:  those of configs/dmc_vision.py, as :small or :debug
What:      the tasks of Hafner et al. 2020. Trained alone, the config is that of walker_walk.
Expected:  the published scores. Not reproduced here at full length.
"""

from collections.abc import Callable

from dreamer_jax.configs import dmc_vision

TASKS = """acrobot_swingup cartpole_balance cartpole_balance_sparse cartpole_swingup
    cartpole_swingup_sparse cheetah_run cup_catch finger_spin finger_turn_easy finger_turn_hard
    hopper_hop hopper_stand pendulum_swingup quadruped_run quadruped_walk reacher_easy reacher_hard
    walker_run walker_stand walker_walk""".split()


def get_config(arg: str = ""):
    """Return the config of one task.

    Args:
        arg: variants of configs/dmc_vision.py, separated by commas.
    """
    task = f"walker_walk,{arg}".rstrip(",")
    config = dmc_vision.make_config("dmc20", task, dmc_vision.PIXELS)
    config.seeds = 5
    return config


def sweep(add: Callable[..., None], arg: str) -> None:
    """Add a job for every task."""
    for task in TASKS:
        add(task=f"dmc:{task}")
