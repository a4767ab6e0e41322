r"""DreamerV2 on DeepMind Control from joint positions and velocities, without images.

Command:   python experiments/train.py --config=configs/dmc_proprio.py:walker_walk \
               --workdir=runs/walker
Tasks:     :<domain>_<task>  as walker_walk
Variants:  as configs/dmc_vision.py; small has 200k frames
What:      the settings of configs/dmc_vision.py, with vectors in place of images. The vectors are
           standardised by running statistics, because their units differ: in reacher_easy two
           entries of 0.1 m say where the target is, beside an angle that grows to 20 rad.
Expected:  small, after 200k frames, two seeds, in an hour on one core: cartpole_swingup 708 (755,
           662); with the earlier settings, reacher_easy 936 (929, 943) and walker_walk
           912 (921, 902): experiments/results/dmc_small.md.
Tried:     B = 16, L = 32 for `small`: in a frozen world model actors learn no faster with them than
           with B = 8, L = 20, and updates take twice the time. With vectors as they are,
           reacher_easy is not learned. Both: experiments/results/dmc_small_trials.md.
"""

from dreamer_jax.configs import dmc_vision

VECTORS = {"vector": {"normalize": ".*"}}
SMALL = dmc_vision.SMALL | {"steps": 100_000}
VARIANTS = dmc_vision.VARIANTS | {"small": SMALL}


def get_config(arg: str = ""):
    """Return the config of a task.

    Args:
        arg: as for configs/dmc_vision.py.
    """
    return dmc_vision.make_config(
        "dmc_proprio", arg, VECTORS, suite="dmc_proprio", variants=VARIANTS
    )
