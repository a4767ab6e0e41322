"""DreamerV2 on Craftax-Classic (Matthews et al. 2024), the whole loop on the device.

Command:   python experiments/train.py --config=configs/craftax.py:symbols --workdir=runs/craftax
Views:     :symbols  a vector of 1,345 numbers
           :pixels   63x63 pixels, resized to 64x64
Variant:   :<view>,debug  tiny networks and a short run, to exercise every part
What:      1M steps of Craftax-Classic (pip install 'dreamer-jax[craftax]'). The networks are those
           of the paper's Atari agent.
Expected:  not run yet at full length.
"""

from dreamer_jax.config.config import default_config
from dreamer_jax.configs import presets
from dreamer_jax.errors import UsageError, lookup

VIEWS = {"symbols": "Symbolic", "pixels": "Pixels"}
NETWORKS = (*presets.HEADS, "vector")
SETTINGS = {
    "loop": "device",
    "steps": 1_000_000,
    "prefill": 10_000,
    "train_every": 5,
    "batch": 16,
    "eval_every": 100_000,
    "replay": {"sampling": "time", "capacity": 200_000},
}
DEBUG = {
    **presets.TINY_CATEGORICAL,
    **presets.dense(NETWORKS, 1, 32),
    "steps": 1_000,
    "prefill": 500,
    "train_every": 50,
    "log_every": 250,
    "eval_steps": 200,
}
VARIANTS = {"debug": DEBUG}


def get_config(arg: str = ""):
    """Return the config of a view.

    Args:
        arg: '<view>', followed by variants, all separated by commas.
    """
    view, *variants = arg.split(",")
    if not view:
        raise UsageError("the config craftax needs a view, as in --config=craftax:symbols")
    config = default_config()
    config.task = f"craftax:Craftax-Classic-{lookup(VIEWS, view, 'view of Craftax')}-v1"
    config.update(SETTINGS)
    for variant in variants:
        config.update(lookup(VARIANTS, variant, "variant of the config craftax"))
    return config
