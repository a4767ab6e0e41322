"""Evaluate the members of a run with greedy actions, and print a summary as JSON.

dreamer-jax evaluate --workdir=runs/catch --episodes=10
dreamer-jax evaluate --workdir=runs/catch --member=1 --video
"""

import json
from argparse import Namespace

from dreamer_jax.commands.flags import Command, Flags, whole_number


def add_flags(flags: Flags) -> None:
    add = flags.add_argument
    add("--workdir", required=True, help="directory of the run")
    flags.add_make_env()
    add("--episodes", type=whole_number(1), default=10, help="episodes per member; 10 by default")
    add("--member", type=int, help="number of the only member to evaluate")
    add("--step", type=int, help="env step of the checkpoint; the newest by default")
    add("--video", action="store_true", help="write an episode of each member to the run's videos/")


def main(args: Namespace) -> None:
    """Evaluate, and print the summary."""
    from dreamer_jax.run.evaluation import evaluate

    print(json.dumps(evaluate(**vars(args)), indent=2))  # the flags are its arguments


COMMAND = Command(__doc__, add_flags, main)
