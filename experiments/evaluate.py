"""Evaluate the members of a run with greedy actions and print a JSON summary.

python experiments/evaluate.py --workdir=runs/catch --episodes=10 [--member=2] [--video]
"""

import json

from absl import flags

from dreamer_jax import cli, evaluate

WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.")
EPISODES = flags.DEFINE_integer("episodes", 10, "Episodes per member.", lower_bound=1)
MEMBER = flags.DEFINE_integer("member", None, "Number of the only member to evaluate.")
STEP = flags.DEFINE_integer("step", None, "Env step of the checkpoint; the newest by default.")
VIDEO = flags.DEFINE_bool("video", False, "Write an episode of each member to the run's videos/.")
flags.mark_flag_as_required("workdir")


def main() -> None:
    summary = evaluate(
        WORKDIR.value,
        episodes=EPISODES.value,
        member=MEMBER.value,
        step=STEP.value,
        video=VIDEO.value,
    )
    print(json.dumps(summary, indent=2))


if __name__ == "__main__":
    cli.run(main)
