"""Evaluate the members of a run with greedy actions, and print a summary as JSON.

dreamer-jax evaluate --workdir=runs/catch --episodes=10
dreamer-jax evaluate --workdir=runs/catch --member=1 --video
"""

import json
from argparse import Namespace

from dreamer_jax.commands.flags import Command, Flags, whole_number


def add_flags(flags: Flags) -> None:
    """Define the flags of the command."""
    flags.add_argument("--workdir", required=True, help="directory of the run")
    flags.add_argument(
        "--episodes", type=whole_number(1), default=10, help="episodes per member; 10 by default"
    )
    flags.add_argument("--member", type=int, help="number of the only member to evaluate")
    flags.add_argument("--step", type=int, help="env step of the checkpoint; the newest by default")
    flags.add_argument(
        "--video", action="store_true", help="write an episode of each member to the run's videos/"
    )


def main(args: Namespace) -> None:
    """Evaluate, and print the summary."""
    from dreamer_jax.commands.process import prepare_to_compute
    from dreamer_jax.run.evaluation import evaluate

    prepare_to_compute()
    summary = evaluate(
        args.workdir,
        episodes=args.episodes,
        member=args.member,
        step=args.step,
        video=args.video,
    )
    print(json.dumps(summary, indent=2))


COMMAND = Command(__doc__, add_flags, main)
