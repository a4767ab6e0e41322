"""DreamerV2 on the humanoid of DeepMind Control, from pixels (Hafner et al. 2021, Appendix A).

Command:   python experiments/train.py --config=configs/humanoid.py --workdir=runs/humanoid
Variants:  as configs/dmc_vision.py, separated by commas
What:      configs/dmc_vision.py:humanoid_walk with a smaller entropy bonus (eta = 1e-5) and a
           larger KL loss (beta = 2), for 20M frames (our choice: the paper gives no number).
Expected:  the paper's curve. Not reproduced here at full length.
"""

from dreamer_jax.configs import dmc_vision

HUMANOID = {"steps": 10_000_000, "actor_entropy": 1e-5, "kl_scale": 2.0}


def get_config(arg: str = ""):
    """Return the config of the run.

    Args:
        arg: variants of configs/dmc_vision.py, separated by commas.
    """
    task = f"humanoid_walk,{arg}".rstrip(",")
    return dmc_vision.make_config("humanoid", task, dmc_vision.PIXELS | HUMANOID)
