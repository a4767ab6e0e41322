"""The identity of a run's environment: saved beside its config, and compared whenever it is used.

The code of the environment is no part of it, because users mend their environments. It is saved
in every checkpoint, since a state of the old code may not suit the new one.
"""

import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dreamer_jax.errors import UsageError
from dreamer_jax.files import replacing


@dataclass(frozen=True)
class EnvIdentity:
    """The identity of a run's environment: its maker and its spaces."""

    source: str  # 'task', or 'function' if a function of the user's makes it
    name: str  # the task's, or module:function
    observation_space: str  # adapted, as gymnasium prints it
    action_space: str

    def __str__(self) -> str:
        maker = describe_maker(self.source, self.name)
        return f"{maker}, observation {self.observation_space}, action {self.action_space}"

    @property
    def is_foreign(self) -> bool:
        """True if this package does not know what the environment does to its process."""
        return self.source == "function" or self.name.startswith("gym:")


def describe_maker(source: str, name: str) -> str:
    """Return in words what makes an environment."""
    return f"task {name}" if source == "task" else f"a function of yours ({name})"


def maker_of(task: str, make_env: Callable | None) -> tuple[str, str]:
    """Return the source and the name of the environments that these arguments make."""
    if make_env is None:
        return "task", task
    while isinstance(make_env, functools.partial):
        make_env = make_env.func
    piece = make_env if hasattr(make_env, "__qualname__") else type(make_env)
    return "function", f"{piece.__module__}:{piece.__qualname__}"


def read_identity(path: Path) -> EnvIdentity | None:
    """Read a saved identity; None if there is none that can be read."""
    try:
        return EnvIdentity(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None  # of a version that saved none


def write_identity(path: Path, identity: EnvIdentity) -> None:
    """Save an identity."""
    with replacing(path) as file:
        file.write_text(json.dumps(asdict(identity), indent=2) + "\n")


def check_maker(path: Path, task: str, make_env: Callable | None) -> str:
    """Compare who makes the environments now with the identity saved at `path`.

    Returns:
        What the user should know, or ''.

    Raises:
        UsageError: the run's environments come from a function and the task would make them, or
            the other way round.
    """
    saved, (source, name) = read_identity(path), maker_of(task, make_env)
    if saved is None or (saved.source, saved.name) == (source, name):
        return ""
    was = f"the run in {path.parent} was made with {describe_maker(saved.source, saved.name)}"
    if saved.source != source == "task":
        raise UsageError(
            f"{was}, and cannot be opened without it: give make_env in Python, or "
            f"--make_env={saved.name} on the command line"
        )
    if saved.source != source:
        raise UsageError(f"{was}, not with {describe_maker(source, name)}: give no make_env")
    if source == "task" or saved.name.rpartition(":")[2] == name.rpartition(":")[2]:
        # Another task is another config, which is refused as such. A function of the same name is
        # the same one, of a script that is run or imported.
        return ""
    return f"{was}; now it is {describe_maker(source, name)}"


def check_spaces(path: Path, identity: EnvIdentity) -> None:
    """Raise UsageError if the environment has other spaces than those saved at `path`."""
    saved = read_identity(path)
    if saved is None:
        return
    changed = [
        f"  {field}: {getattr(saved, field)} -> {getattr(identity, field)}"
        for field in ("observation_space", "action_space")
        if getattr(saved, field) != getattr(identity, field)
    ]
    if changed:
        maker = describe_maker(identity.source, identity.name)
        raise UsageError(
            f"the environments of {maker} have other spaces than those that the run in "
            f"{path.parent} was trained with (saved -> given):\n" + "\n".join(changed)
        )


def changed_code(saved: Mapping[str, str] | None, code: Mapping[str, Any]) -> str:
    """Describe how the code of an environment differs from that of a checkpoint, '' if not."""
    if saved is None:
        return "the checkpoint is of a version that did not record the environment's code"
    names = sorted(name for name in saved | code if saved.get(name) != code.get(name))
    if not names:
        return ""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"the environment's code has changed since the checkpoint: {', '.join(names[:3])}{more}"
