"""Flags of commands, and the config that `--config` names, with its overrides."""

import argparse
import contextlib
import functools
import importlib
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from dreamer_jax.errors import UsageError, suggest

if TYPE_CHECKING:
    from ml_collections import ConfigDict

CONFIG_HELP = (
    "a shipped config, as catch or atari:pong,debug, or a file, as mine.py or mine.py:argument; "
    "--config.KEY=VALUE overrides a key"
)

MAKE_ENV_HELP = (
    "a function of yours from a seed to an environment, as module:function, or a JAX environment, "
    "as module:object; it replaces config.task, and is needed again to open its run"
)


class Flags(argparse.ArgumentParser):
    """A parser that raises its errors."""

    def add_config(self) -> None:
        """Add `--config`.

        The command gets the config as `config`, what the user gave as `config_name`, and the flags
        that override keys as `overrides`.
        """
        self.add_argument("--config", required=True, help=CONFIG_HELP)

    def add_make_env(self) -> None:
        """Add `--make_env`; the command gets the function as `make_env`, or None."""
        self.add_argument("--make_env", type=find_function, help=MAKE_ENV_HELP)

    def error(self, message: str) -> NoReturn:
        raise UsageError(message)


class Command(NamedTuple):
    """A subcommand."""

    about: str  # for its help
    add_flags: Callable[[Flags], None]  # adds its flags to a parser
    main: Callable[[argparse.Namespace], None]  # runs it with their values


def whole_number(minimum: int) -> Callable[[str], int]:
    """Return a parser of whole numbers that are at least `minimum`."""

    def parse_number(text: str) -> int:
        if not text.strip().isdecimal() or int(text) < minimum:
            raise argparse.ArgumentTypeError(
                f"{text!r} was given; allowed: a whole number of at least {minimum}"
            )
        return int(text)

    return parse_number


def whole_numbers(minimum: int) -> Callable[[str], list[int]]:
    """Return a parser of lists such as '2,3', of whole numbers that are at least `minimum`."""
    parse_number = whole_number(minimum)
    return lambda text: [parse_number(entry) for entry in text.split(",")]


def find_function(given: str) -> Callable:
    """Import the function or JAX environment that 'module:name' names.

    It may be in the current directory.
    """
    module_name, _, name = given.partition(":")
    if not name or not all(part.isidentifier() for part in module_name.split(".")):
        raise argparse.ArgumentTypeError(f"{given!r} was given; allowed: module:function")
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise argparse.ArgumentTypeError(
            f"there is no module {error.name}; it must be installed or in {os.getcwd()}"
        ) from error
    function = functools.reduce(
        lambda node, part: getattr(node, part, None), name.split("."), module
    )
    if not (callable(function) or hasattr(function, "step")):
        nearest = suggest(name, vars(module))
        raise argparse.ArgumentTypeError(f"{module_name} has no function {name}.{nearest}")
    return function


def words(text: str) -> list[str]:
    """Parse a list such as 'lax,matmul'."""
    return [entry.strip() for entry in text.split(",")]


def parse(name: str, command: Command, argv: Sequence[str]) -> argparse.Namespace:
    """Return the values of a command's flags, with `config` loaded and overridden.

    Args:
        name: the program's name, for its help.
        command: defines the flags.
        argv: the flags that the user gave.

    Raises:
        UsageError: a flag is unknown, or a value is not allowed.
        SystemExit: the user asked for help, which has been printed.
    """
    # No abbreviations: with a new version one could turn into another flag.
    formatter = argparse.RawDescriptionHelpFormatter
    flags = Flags(name, description=command.about, formatter_class=formatter, allow_abbrev=False)
    command.add_flags(flags)
    args, rest = flags.parse_known_args(_separate(flags, argv))
    overrides = []
    for argument in rest:
        flag = argument.split("=")[0]
        # The value of an override may be an argument of its own: --config.seeds 4.
        if "config" in args and (_is_override(flag) or (overrides and flag[:2] != "--")):
            overrides.append(argument)
        elif flag.startswith("-"):
            known = [f"--{name}" for name in vars(args)]
            raise UsageError(f"unknown flag {flag}.{suggest(flag, known)}")
        else:
            raise UsageError(f"unexpected argument {argument!r}; flags are --name=value")
    if "config" in args:
        args.config_name, args.overrides = args.config, overrides
        args.config = _override(load_config(args.config), overrides)
    return args


def _separate(flags: Flags, argv: Sequence[str]) -> list[str]:
    """Return arguments in which '--name=a b' is '--name a b' if the flag takes several values."""
    several = {name for f in flags._actions if f.nargs == "+" for name in f.option_strings}
    separated: list[str] = []
    for argument in argv:
        name, _, value = argument.partition("=")
        separated += [name, value] if name in several and value else [argument]
    return separated


def load_config(given: str) -> "ConfigDict":
    """Load the config that a user names; see `configs.load_module`."""
    from dreamer_jax import configs

    module, arg = configs.load_module(given)
    return module.get_config(*([] if arg is None else [arg]))


def _is_override(flag: str) -> bool:
    return flag.lstrip("-").removeprefix("no").startswith("config.")


def _override(config: Any, overrides: Sequence[str]) -> "ConfigDict":
    """Return the config with `--config.KEY=VALUE` applied, locked."""
    from absl import flags
    from ml_collections import ConfigDict, config_flags

    from dreamer_jax.config.keys import KEYS

    if not isinstance(config, ConfigDict):
        raise UsageError(f"get_config returned {config!r}; allowed: a ConfigDict")
    for override in filter(_is_override, overrides):
        name = override.split("=")[0].partition("config.")[2]
        if not any(key == name or key.startswith(f"{name}.") for key in KEYS):
            raise UsageError(f"config.{name} does not exist.{suggest(name, KEYS)}")
    overrides = [_whole_override(override, KEYS) for override in overrides]
    values = flags.FlagValues()
    try:
        argv = list(overrides)
        config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=argv)
        rest = values(["dreamer-jax", *overrides])
    except flags.Error as error:
        raise UsageError(str(error)) from error
    if len(rest) > 1:
        raise UsageError(f"unexpected arguments {rest[1:]}; flags are --name=value")
    return values.config


def _whole_override(override: str, keys: Mapping[str, Any]) -> str:
    """Return an override whose whole number may be written as 1e6 as one of digits."""
    name, equals, value = override.partition("=")
    default = getattr(keys.get(name.partition("config.")[2]), "default", None)
    if equals and type(default) is int:
        with contextlib.suppress(ValueError, OverflowError):
            if float(value).is_integer() and abs(float(value)) < 2**53:
                return f"{name}={int(float(value))}"
    return override
