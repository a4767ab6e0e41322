"""Train all members of a config.

python experiments/train.py --config=configs/catch.py --workdir=runs/catch [--config.seeds=4 ...]
"""

import json

from absl import flags

from dreamer_jax import cli, dry_run, train

CONFIG = cli.config_flag()
WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run; the same one resumes it.")
DRY_RUN = flags.DEFINE_bool("dry_run", False, "Build everything, print what it is, do not train.")
flags.mark_flag_as_required("config")


def main() -> None:
    if DRY_RUN.value:
        print(json.dumps(dry_run(CONFIG.value), indent=2))
        return
    if WORKDIR.value is None:
        raise cli.UsageError("--workdir is missing; it names the directory of the run")
    print(json.dumps(train(CONFIG.value, WORKDIR.value), indent=2))


if __name__ == "__main__":
    cli.run(main)
