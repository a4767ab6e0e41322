r"""Eight variants of the agent on catch: a sweep to try out.

Command:   python experiments/sweep.py --config=configs/catch_sweep.py:debug --workdir=runs/sweep \
               --launcher=local
Variant:   :debug  a few updates of each job; does not learn
What:      configs/catch.py with one seed, and every combination of two kinds of latents, two KL
           losses and two horizons.
Runtime:   debug: 10 minutes with --at_once=2 on two CPU cores that were busy with other work; most
           of it is compilation.
"""

import itertools
from collections.abc import Callable

from dreamer_jax.configs import catch


def get_config(arg: str = ""):
    """Return the config of the jobs, without what they vary.

    Args:
        arg: '' or 'debug'.
    """
    config = catch.get_config(arg)
    config.seeds = 1
    return config


def sweep(add: Callable[..., None], arg: str) -> None:
    """Add every combination."""
    latents, losses, horizons = ("categorical", "gaussian"), ("balanced", "plain"), (5, 8)
    for latent, loss, horizon in itertools.product(latents, losses, horizons):
        add(rssm={"latent": latent}, kl_loss=loss, horizon=horizon)
