"""DreamerV2 on tasks of bsuite (Osband et al. 2020), the whole loop on the device.

Command:   python experiments/train.py --config=configs/bsuite.py:catch --workdir=runs/catch
Tasks:     :catch, deep_sea, discounting_chain, memory_chain, umbrella_chain, bandit
Variant:   :<task>,debug  a short run, to exercise every part
What:      the tasks of gymnax (pip install 'dreamer-jax[gymnax]') with their default sizes, and
           small networks.
Expected:  not run yet at full length.
"""

from dreamer_jax.config.config import default_config
from dreamer_jax.configs import presets
from dreamer_jax.errors import UsageError, lookup

TASKS = {
    "bandit": "SimpleBandit",
    "catch": "Catch",
    "deep_sea": "DeepSea",
    "discounting_chain": "DiscountingChain",
    "memory_chain": "MemoryChain",
    "umbrella_chain": "UmbrellaChain",
}
SETTINGS = presets.SMALL | {
    "loop": "device",
    "steps": 50_000,
    "prefill": 1_000,
    "pretrain": 100,
    "train_every": 4,
    "log_every": 1_000,
    "eval_every": 10_000,
    "video_every": 10_000,
    **presets.dense(("discount_head", "vector"), 2, 64),
    "discount": 0.99,
    "reward_transform": "none",
    "replay": {"sampling": "time", "capacity": 50_000},
}
VARIANTS = {"debug": presets.SHORT}


def get_config(arg: str = ""):
    """Return the config of a task.

    Args:
        arg: '<task>', followed by variants, all separated by commas.
    """
    task, *variants = arg.split(",")
    if not task:
        raise UsageError("the config bsuite needs a task, as in --config=bsuite:catch")
    config = default_config()
    config.task = f"gymnax:{lookup(TASKS, task, 'bsuite task')}-bsuite"
    config.update(SETTINGS)
    for variant in variants:
        config.update(lookup(VARIANTS, variant, "variant of the config bsuite"))
    return config
