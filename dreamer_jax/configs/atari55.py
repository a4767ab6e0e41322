r"""DreamerV2 on the 55 games of the Atari benchmark, with five seeds of each: 55 jobs.

Command:   python experiments/sweep.py --config=configs/atari55.py --workdir=runs/atari55
Variants:  those of configs/atari.py, as :release or :debug
What:      200M frames of each game (Hafner et al. 2021, Section 3). The five members of a job train
           in one program. Trained alone, the config is that of Pong.
Expected:  the paper's scores. Not reproduced here at full length.
Runtime:   docs/sweeps.md says how to estimate it from a measured update.
"""

from collections.abc import Callable

from dreamer_jax.configs import atari

GAMES = """
    alien amidar assault asterix asteroids atlantis bank_heist battle_zone beam_rider berzerk
    bowling boxing breakout centipede chopper_command crazy_climber demon_attack double_dunk
    enduro fishing_derby freeway frostbite gopher gravitar hero ice_hockey jamesbond kangaroo
    krull kung_fu_master montezuma_revenge ms_pacman name_this_game phoenix pitfall pong
    private_eye qbert riverraid road_runner robotank seaquest skiing solaris space_invaders
    star_gunner tennis time_pilot tutankham up_n_down venture video_pinball wizard_of_wor
    yars_revenge zaxxon
""".split()


def get_config(arg: str = ""):
    """Return the config of one game.

    Args:
        arg: variants of configs/atari.py, separated by commas.
    """
    config = atari.get_config(f"pong,{arg}".rstrip(","))
    config.seeds = 5
    return config


def sweep(add: Callable[..., None], arg: str) -> None:
    """Add a job for every game."""
    for game in GAMES:
        add(task=f"atari:{game}")
