"""Train all members of a config, or resume the run in a work directory.

dreamer-jax train --config=catch --workdir=runs/catch
dreamer-jax train --config=atari:pong --workdir=runs/pong --config.seeds=5
dreamer-jax train --config=mine.py --make_env=my_envs:make_maze --workdir=runs/maze
dreamer-jax train --config=mine.py --dry_run

Several processes train one run, each some of its members, if all are started with the same command
and with --coordinator; docs/sweeps.md has examples.
"""

import json
from argparse import Namespace

from dreamer_jax.commands.flags import Command, Flags, whole_number
from dreamer_jax.errors import UsageError


def add_flags(flags: Flags) -> None:
    flags.add_config()
    flags.add_make_env()
    flags.add_argument("--workdir", help="directory of the run; the same one resumes it")
    flags.add_argument(
        "--dry_run", action="store_true", help="build everything and describe it, but do not train"
    )
    text = "several processes: host:port of the first one; slurm or k8s: as their variables say"
    flags.add_argument("--coordinator", help=text)
    flags.add_argument("--num_processes", type=whole_number(1), help="number of processes")
    flags.add_argument("--process_id", type=whole_number(0), help="number of this one, from 0")


def main(args: Namespace) -> None:
    """Train, and print the final evaluation as JSON."""
    from dreamer_jax.run.processes import connect
    from dreamer_jax.run.setup import dry_run
    from dreamer_jax.run.trainer import train

    if args.coordinator is None and (args.num_processes, args.process_id) != (None, None):
        raise UsageError("--num_processes and --process_id need --coordinator=host:port")
    if args.workdir is None and not args.dry_run:
        raise UsageError("--workdir is missing; it names the directory of the run")
    if args.dry_run:
        result = dry_run(args.config, args.make_env)
    else:
        if args.coordinator is not None:
            connect(args.coordinator, args.num_processes, args.process_id)
        result = train(args.config, args.workdir, args.make_env)
    print(json.dumps(result, indent=2))


COMMAND = Command(__doc__, add_flags, main)
