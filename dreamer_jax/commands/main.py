"""Find and run the command that a user asks for, and report errors in a line."""

import contextlib
import faulthandler
import importlib
import sys
from collections.abc import Sequence

from dreamer_jax.commands.flags import Command, parse
from dreamer_jax.errors import ProcessFailed, UsageError, lookup
from dreamer_jax.streams import SafeStream

COMMANDS = {
    "train": "Train all members of a config, or resume a run.",
    "evaluate": "Evaluate the members of a run.",
    "members": "List the members of a run; extract, join or add members.",
    "report": "Make tables, figures and a page of runs; check thresholds.",
    "plot": "Draw curves of runs.",
    "watch": "Show the progress of runs in the terminal.",
    "sweep": "List or run the jobs of a sweep: here, on a SLURM cluster, or with Ray.",
    "benchmark": "Measure the time, FLOP/s and memory of a config's update.",
}
HELP = """usage: dreamer-jax COMMAND [flags]

DreamerV2 in JAX: many seeds and hyperparameters train in one compiled program.

commands:
{commands}

`dreamer-jax COMMAND --help` lists the flags of a command. To see everything work:

  dreamer-jax train --config=catch:debug --workdir=runs/catch"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run `dreamer-jax` with a command and its flags, by default those of the process."""
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {n:<10} {text}" for n, text in COMMANDS.items())))
        return
    try:
        lookup(COMMANDS, name, "command")
    except UsageError as error:
        _fail(error)
    module = importlib.import_module(f"dreamer_jax.commands.{name}")
    run(f"dreamer-jax {name}", module.COMMAND, rest)


def run(name: str, command: Command, argv: Sequence[str]) -> None:
    """Run a command; exit with a message and status 2 on errors that the user can correct.

    Output that cannot be written is lost, and changes neither the command nor its exit status.

    Args:
        name: the program's name, for its help.
        command: the command to run.
        argv: the flags that the user gave.
    """
    output = SafeStream(sys.stdout)
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(SafeStream(sys.stderr)):
            _run(name, command, argv)
    finally:
        output.settle()


def _run(name: str, command: Command, argv: Sequence[str]) -> None:
    try:
        args = parse(name, command, argv)
    except UsageError as error:
        _fail(error)
    # Imported here because it takes a while: --help and mistakes in flags do not need them.
    from absl import logging

    from dreamer_jax.envs.vector import TooManyFaults
    from dreamer_jax.files import DISK_FULL

    with contextlib.suppress(AttributeError, OSError, ValueError):  # a closed standard error
        faulthandler.enable()
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)  # at INFO, orbax describes each step of each save
    try:
        command.main(args)
    except (UsageError, FileNotFoundError, TooManyFaults, ProcessFailed) as error:
        _fail(error)
    except OSError as error:
        # Of the system, as where a directory cannot be written, and not of an environment.
        if error.errno not in DISK_FULL and error.filename is None:
            raise
        _fail(error)


def _fail(error: Exception) -> None:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(2)
