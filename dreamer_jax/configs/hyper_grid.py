r"""The paper's search over hyperparameters: 32 settings as members of one program, on five games.

Command:   python experiments/sweep.py --config=configs/hyper_grid.py --workdir=runs/grid
Variants:  those of configs/atari.py, as :release or :debug
What:      the weight of the KL loss, that of the entropy bonus and the discount, in the ranges that
           Hafner et al. 2021 recommend to search in a new domain. The games are those whose scores
           predict the median over all of Atari best (Aitchison et al. 2023). Trained alone, the
           config is that of the first game.
Runtime:   as configs/atari.py, with 32 members, each with its own replay (9.9 GB).
"""

from collections.abc import Callable

from dreamer_jax.configs import atari

GAMES = ("battle_zone", "double_dunk", "name_this_game", "phoenix", "qbert")


def get_config(arg: str = ""):
    """Return the config of one game.

    Args:
        arg: variants of configs/atari.py, separated by commas.
    """
    return atari.get_config(f"{GAMES[0]},search,{arg}".rstrip(","))


def sweep(add: Callable[..., None], arg: str) -> None:
    """Add a job for every game."""
    for game in GAMES:
        add(task=f"atari:{game}")
