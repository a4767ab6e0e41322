"""The compiled programs of a run, kept so that a resumed run continues with the same ones.

On a GPU, the compiler chooses between kernels by timing them, so two processes may compile one
function to programs that round differently. `programs/` therefore holds the programs themselves,
serialized. JAX's compilation cache would not do: it is shared by all runs of a user, may be
emptied, and does not tell which program it returned.
"""

import hashlib
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import jaxlib
from jax.experimental import serialize_executable

from dreamer_jax.agent.members import MemberFns

# Of the functions of members, those that the results of a run depend on once it has begun.
KEPT = ("policy_step", "greedy_step", "explore_step", "train_step")


class Programs:
    """The programs of some functions, each compiled or loaded when it is first called.

    Args:
        directory: where they are kept, possibly with those of other runs; None keeps none.
        devices: those that they run on.
        say: called with a message for the user.
    """

    def __init__(
        self, directory: Path | None, devices: Sequence[jax.Device], say: Callable[[str], None]
    ):
        self._directory, self._devices, self._say = directory, devices, say
        self._said: set[str] = set()  # what is true of one program is usually true of all
        self._notes: dict[str, dict] = {}  # of the programs in use, or at the checkpoint

    def keep(self, fns: MemberFns) -> MemberFns:
        """Return the functions of members, of which those in `KEPT` call kept programs."""
        kept = {name: self.keep_function(name, getattr(fns, name)) for name in KEPT}
        return fns._replace(**kept)

    def keep_function(self, name: str, function: Callable) -> Callable:
        """Return a function that calls the kept program of a jitted one."""
        program = None

        def call(*args):
            nonlocal program
            if program is None:  # the shapes of arguments do not change during a run
                program = self._find(name, function, args)
            return program(*args)

        return call

    def state(self) -> dict[str, dict]:
        """Return what identifies each program, by name, as JSON data for `restore`."""
        return dict(self._notes)

    def restore(self, notes: Mapping[str, dict]) -> None:
        """Compare programs from now on with a `state()`."""
        self._notes = dict(notes)

    def _find(self, name: str, function: Callable, args: tuple) -> Callable:
        """Load a program, or compile and keep it."""
        lowered = function.lower(*args)
        target = _describe(self._devices)
        key = _digest(f"{target}\n{lowered.as_text()}".encode())
        if self._directory is None:
            program, identity = lowered.compile(), None
        else:
            path = self._directory / f"{name}-{key}.xla"
            if name == "train_step" and not path.exists():
                self._say("compiling the update, which can take minutes")
            program, identity = self._load_or_keep(path, lowered)
        note = {"key": key, "program": identity, "target": target}
        self._compare(name, self._notes.get(name, note), note)
        self._notes[name] = note
        return program

    def _load_or_keep(self, path: Path, lowered: jax.stages.Lowered) -> tuple[Callable, str | None]:
        """Return a program, and the digest of its file; None if it is in none."""
        if path.exists():
            return self._load(path, lowered) or (lowered.compile(), None)
        program = lowered.compile()
        digest = self._save(path, program)
        if digest is None and path.exists():  # another process was first; all use its program
            return self._load(path, lowered) or (program, None)
        return program, digest

    def _compare(self, name: str, old: Mapping, new: Mapping) -> None:
        if (old["key"], old["program"]) == (new["key"], new["program"]):
            return
        reason = f"the kept one is not in {self._directory} any more"
        if old["key"] != new["key"]:
            reason = "the code, the config, or the number of members on a device has changed"
        if old["target"] != new["target"]:
            reason = f"compiled for {old['target']} before, now for {new['target']}"
        if reason not in self._said:
            self._say(
                f"{name} is another program than before the resume, and may round differently: "
                f"{reason}"
            )
        self._said.add(reason)

    def _load(self, path: Path, lowered: jax.stages.Lowered) -> tuple[Callable, str] | None:
        """Return the program in a file, and the file's digest; None if it cannot be used."""
        tree = jax.tree.structure(lowered.args_info)
        try:
            content = path.read_bytes()
            program = serialize_executable.deserialize_and_load(
                content, tree, lowered.out_tree, execution_devices=self._devices
            )
        except Exception as error:  # damaged, or of a device that is not quite the same
            self._say(f"{path} cannot be used: {type(error).__name__}: {error}")
            return None
        return program, _digest(content)

    def _save(self, path: Path, program: jax.stages.Compiled) -> str | None:
        """Write a program to a new file, and return its digest; None if that fails."""
        try:
            content, *_ = serialize_executable.serialize(program)
            path.parent.mkdir(parents=True, exist_ok=True)
            return _digest(content) if _write_new(path, content) else None
        except Exception as error:  # it only costs the exact resume
            self._say(
                f"{path} could not be kept ({type(error).__name__}: {error}); a resumed run "
                "compiles the program again, and may round differently"
            )
            return None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _write_new(path: Path, content: bytes) -> bool:
    """Write a file at once; return False if another process has done so."""
    temporary = path.with_name(f".{path.name}.{platform.node()}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(content)
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink(missing_ok=True)
    return True


def _describe(devices: Sequence[jax.Device]) -> str:
    """Return what a program depends on beside its code."""
    first = devices[0]
    numbers = ",".join(str(device.id) for device in devices)
    machine = f" of {_cpu()}" if first.platform == "cpu" else ""
    flags = os.environ.get("XLA_FLAGS", "")
    return (
        f"{first.device_kind}{machine} (devices {numbers}), jax {jax.__version__}, jaxlib "
        f"{jaxlib.__version__}, {first.client.platform_version}" + (f", {flags}" if flags else "")
    )


def _cpu() -> str:
    """Return a CPU's architecture, with a digest of the instructions that it has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{platform.machine()}-{_digest(features.encode())[:6]}"
