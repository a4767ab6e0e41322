"""A replay on the local scratch of a machine, while the work directory is on shared storage.

A resumed run may find itself on another machine, or the scratch emptied. Whether the replay there
is the run's own is decided by a token per member, which the scratch and the work directory share:
whoever starts a replay on a scratch draws a new one, so that the others do not count any more.
"""

import os
import re
import shutil
import socket
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from dreamer_jax.errors import UsageError
from dreamer_jax.files import replacing
from dreamer_jax.replay.copy import copy_member, open_complete
from dreamer_jax.replay.layout import Layout
from dreamer_jax.replay.ring import check_disk, member_directories
from dreamer_jax.run.workdir import WorkDir

TOKEN = "token"  # file in the directory of each member on the scratch


def replay_directory(config: ConfigDict, work: WorkDir) -> Path:
    """Return the directory of a run's replay: on the scratch if the config names one.

    Raises:
        UsageError: the scratch is a path with variables that are not set.
    """
    if config.replay.scratch is None:
        return work.replay
    root = os.path.expandvars(os.path.expanduser(config.replay.scratch))
    unset = re.findall(r"\$\{?\w+\}?", root)
    if unset or not os.path.isabs(root):
        problem = f"{', '.join(unset)} is not set" if unset else "it is relative"
        raise UsageError(
            f"config.replay.scratch is {config.replay.scratch!r}, but {problem}; allowed: an "
            "absolute path, in which environment variables may occur, as $TMPDIR"
        )
    # Runs of the same name may use the same scratch.
    place = uuid.uuid5(uuid.NAMESPACE_URL, str(work.path.resolve())).hex[:8]
    return Path(root) / f"{work.path.name}-{place}"


class Scratch:
    """The replay of some members on a scratch.

    Args:
        config, work: those of the run.
        numbers: of the members.
    """

    def __init__(self, config: ConfigDict, work: WorkDir, numbers: Sequence[int]):
        self.directory = replay_directory(config, work)
        self._work, self._policy = work, config.replay.lost
        self._numbers, self._tokens = list(numbers), {}

    def open(self, layout: Layout, *, resumed: bool, say: Callable[[str], None]) -> bool:
        """Prepare the directory, before the rings in it are opened or made.

        Args:
            layout: of the rings.
            resumed: whether the run has checkpoints, which need the records of its replay.
            say: called with a message for the user.

        Returns:
            Whether the records are lost, and the replay must be refilled; call `keep` once a
            checkpoint has been saved that does not need them.

        Raises:
            UsageError: the records are lost, and there is no copy.
            OSError: the scratch has less space than the full replay needs.
        """
        lost = [number for number in self._numbers if not (resumed and self._is_own(number))]
        if not lost:
            say(f"the replay in {self.directory} is that of the last attempt")
            return False
        places = self._places(lost)
        for place in places:
            shutil.rmtree(place, ignore_errors=True)
        check_disk(layout, places)
        refill = resumed and self._policy == "refill"
        if resumed:
            how = "new steps of the policy refill it" if refill else self._copy(lost, places)
            say(f"{self.directory} on {socket.gethostname()} lacks the replay of this run: {how}")
        self._tokens = {number: uuid.uuid4().hex for number in lost}
        if not refill:
            self.keep()
        return refill

    def keep(self) -> None:
        """Make the replay on this scratch the run's own, and those on others not."""
        for number, token in self._tokens.items():
            place = self._places([number])[0] / TOKEN
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(token)
            self._work.scratch.mkdir(exist_ok=True)
            with replacing(self._work.scratch / str(number)) as file:
                file.write_text(token)
        self._tokens = {}

    def drop_copy(self) -> None:
        """Remove the copy in the work directory, of a replay that is about to be refilled."""
        for place in member_directories(self._work.replay, self._numbers):
            shutil.rmtree(place, ignore_errors=True)

    def _copy(self, numbers: Sequence[int], places: Sequence[Path]) -> str:
        """Copy members' replays to these directories; return from where, in words."""
        copies = [open_complete(path) for path in member_directories(self._work.replay, numbers)]
        for copy, place in zip(copies, places, strict=True):
            place.parent.mkdir(parents=True, exist_ok=True)
            copy_member(copy, place)
        return f"copied from {self._work.replay}"

    def _places(self, numbers: Sequence[int]) -> list[Path]:
        return member_directories(self.directory, numbers)

    def _is_own(self, number: int) -> bool:
        files = self._work.scratch / str(number), self._places([number])[0] / TOKEN
        try:
            ours, found = (file.read_text() for file in files)
        except OSError:
            return False
        return ours == found
