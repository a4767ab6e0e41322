"""DreamerV2 walks the humanoid of DeepMind Control from pixels (Hafner et al. 2021, Appendix A).

Command:   python experiments/train.py --config=configs/humanoid.py --workdir=runs/humanoid
Variants:  as configs/dmc_vision.py, separated by commas
What:      configs/dmc_vision.py:humanoid_walk with less entropy (eta = 1e-5) and a larger KL
           (beta = 2), for 20M frames, a number that the paper does not give.
Expected:  the paper's curve. Not reproduced here at full length.
"""

from dreamer_jax.config_file import sibling

HUMANOID = {"steps": 10_000_000, "actor_entropy": 1e-5, "kl_scale": 2.0}


def get_config(arg: str = ""):
    """Config of the run. Args: arg: variants of configs/dmc_vision.py, separated by commas."""
    vision = sibling(__file__, "dmc_vision")
    task = f"humanoid_walk,{arg}".rstrip(",")
    return vision.make_config("humanoid", task, vision.PIXELS | HUMANOID)
