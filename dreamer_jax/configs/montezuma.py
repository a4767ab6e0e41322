"""DreamerV2 on Montezuma's Revenge: the Atari settings with gamma 0.99.

Command:   python experiments/train.py --config=configs/montezuma.py --workdir=runs/montezuma
Variants:  :release and :debug as in configs/atari.py
What:      the one game that the paper also reports with a shorter horizon
           (Hafner et al. 2021, Appendix B).
Expected:  the paper's scores. Not reproduced here at full length.
Runtime:   as configs/atari.py.
"""

from dreamer_jax.configs import atari


def get_config(arg: str = ""):
    """Return the config of the run.

    Args:
        arg: variants of configs/atari.py, separated by commas.
    """
    config = atari.get_config(f"montezuma_revenge,{arg}".rstrip(","))
    config.discount = 0.99
    return config
