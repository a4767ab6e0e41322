"""DreamerV2 on Montezuma's Revenge: the Atari settings with gamma 0.99.

Command:   python experiments/train.py --config=configs/montezuma.py --workdir=runs/montezuma
Variants:  :release and :debug as in configs/atari.py
What:      the one game that the paper also reports with a shorter horizon
           (Hafner et al. 2021, Appendix B).
Expected:  the paper's scores. Not reproduced here at full length.
Runtime:   as configs/atari.py.
"""

import importlib.util
from pathlib import Path


def get_config(arg: str = ""):
    """Config of the run. Args: arg: variants of configs/atari.py, separated by commas."""
    config = _atari().get_config(f"montezuma_revenge,{arg}".rstrip(","))
    config.discount = 0.99
    return config


def _atari():
    # Config files are loaded by path, so the one beside this is not importable by name.
    spec = importlib.util.spec_from_file_location("atari", Path(__file__).with_name("atari.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
