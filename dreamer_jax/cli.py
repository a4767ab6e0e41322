"""Command-line entry: absl flags with errors that a user can read."""

import sys
from collections.abc import Callable, Sequence

from absl import app, flags, logging
from ml_collections import config_flags

from dreamer_jax.config import KEYS
from dreamer_jax.envs.vector import TooManyFaults
from dreamer_jax.errors import UsageError, suggest
from dreamer_jax.files import DISK_FULL
from dreamer_jax.runtime import cache_compilations, collect_rarely, keep_memory, use_cores


def config_flag() -> flags.FlagHolder:
    """Define `--config=FILE[:ARG]`, whose keys are overridden by `--config.KEY=VALUE`."""
    return config_flags.DEFINE_config_file(
        "config", help_string="Config file, as configs/catch.py or configs/atari.py:pong."
    )


def run(main: Callable[[], None]) -> None:
    """Parse flags and call `main`; what a user can mend is one message and exit status 2."""

    def guarded(argv: Sequence[str]) -> None:
        if len(argv) > 1:
            _fail(f"unexpected arguments {list(argv[1:])}; flags are --name=value")
        collect_rarely()
        cache_compilations()
        use_cores()
        keep_memory()
        if not flags.FLAGS["verbosity"].present:
            # Checkpointing tells every step of every save at level INFO.
            logging.set_verbosity(logging.WARNING)
        try:
            main()
        except (UsageError, FileNotFoundError, TooManyFaults) as error:
            _fail(str(error))
        except OSError as error:
            if "Failed loading config file" in str(error):
                _fail(str(error).split(": ", 1)[-1])
            if error.errno in DISK_FULL:
                _fail(str(error))
            raise

    app.run(guarded, flags_parser=_parse)


def _parse(argv: Sequence[str]) -> list[str]:
    for argument in argv[1:]:
        name = argument.removeprefix("--").removeprefix("config.").split("=")[0]
        if argument.startswith("--config.") and not _is_key(name):
            _fail(f"config.{name} does not exist.{suggest(name, KEYS)}")
    try:
        return flags.FLAGS(list(argv))
    except flags.Error as error:
        # What a config file's get_config raises comes as the text of a traceback.
        _fail(str(error).rsplit(f"{UsageError.__name__}: ", 1)[-1].strip())


def _is_key(name: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for key in KEYS)


def _fail(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)
