"""Reports a run to Weights & Biases: one W&B run per member and one of their aggregates."""

import contextlib
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

from dreamer_jax.errors import UsageError
from dreamer_jax.report.wandb_session import WandbSession


class WandbRuns:
    """Sends the rows of metrics.jsonl as they come, from a thread of its own.

    Training never waits for W&B but in `close`, and no error of W&B reaches it: the first one is
    given to `warn`, and reporting ends for this process. Nothing is lost by that: what has been
    sent is noted in `state_file`, and the next process that is given the same files goes on from
    there, in the same W&B runs.

    A row is noted before it is sent, so that no kill makes it appear twice. SIGKILL loses the rows
    (in W&B, not in metrics.jsonl) that the service has not stored by then: offline those of about
    the last second; online those that are not uploaded, which `wandb sync` can still send from
    `directory`.

    The first use silences W&B's messages for the process: they would run through the progress
    display, and without a login W&B would ask for a key on the terminal. It also turns off that
    W&B reports its own errors, unless WANDB_ERROR_REPORTING is set.
    """

    def __init__(
        self,
        metrics: Path,
        *,
        mode: Literal["online", "offline"],
        project: str,
        entity: str | None,
        group: str,
        tags: Sequence[str],
        member_configs: Sequence[Mapping[str, Any]],
        state_file: Path,
        directory: Path,
        warn: Callable[[str], None],
    ):
        """Begins to open the W&B runs; returns at once.

        Args:
          metrics: the run's metrics.jsonl, see rows.py.
          mode: whether to upload, or to write below `directory` for `wandb sync`.
          project, entity, group: where the runs are put; with others than `state_file` has,
            everything is sent anew, to new runs. `entity` None is the user's default.
          tags: of every run.
          member_configs: [M] nested dicts of what W&B is to show as a member's config; each has
            "seed", which the run is named after. The aggregates get what all agree in.
          state_file: JSON; its directory exists.
          directory: of W&B's own files; is made.
          warn: takes a message; is called from another thread.

        Raises:
          UsageError: `mode` is another, or there is no member.
        """
        if mode not in ("online", "offline"):
            raise UsageError(f"mode is {mode!r}; choose one of: online, offline")
        if not member_configs:
            raise UsageError("member_configs is empty; there is one per member")
        self._warn = warn
        self._closed = False
        self._ended = threading.Event()
        self._ending = threading.Lock()
        open_session = partial(
            WandbSession,
            metrics,
            mode=mode,
            target={"entity": entity, "project": project, "group": group},
            tags=tags,
            member_configs=member_configs,
            state_file=state_file,
            directory=directory,
            warn=warn,
            ended=self._ended,
        )
        self._work: queue.SimpleQueue[Callable[[WandbSession], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(
            target=self._report, args=(open_session,), name="wandb-runs", daemon=True
        )
        self._thread.start()

    def sync(self, offset: int) -> None:
        """Have all lines sent that lie before byte `offset` of metrics.jsonl; does not wait."""
        self._submit(lambda session: session.send_rows(offset))

    def video(self, member: int, name: str, path: Path, env_step: int) -> None:
        """Have a GIF or MP4 shown in a member's run; does not wait.

        Args:
          member: 0 <= member < M.
          name: of the panel; a later video of the same name is its next step.
          path: not removed before `close`.
          env_step: when it was made; a video that is not newer than the last one is left out.
        """
        self._submit(lambda session: session.send_video(member, name, path, env_step))

    def close(self, timeout: float = 60.0) -> None:
        """Sends what is there and finishes the runs; warns if that takes more than `timeout` s."""
        if self._closed:
            return
        self._closed = True
        self._work.put(None)
        self._thread.join(timeout)
        if self._thread.is_alive():
            self._end(f"not finished within {timeout:g} s")
            thread = threading.Thread(target=_tear_down, name="wandb-teardown", daemon=True)
            thread.start()
            # For the exit hooks to be gone; the rest of it may take as long as it likes.
            thread.join(1.0)

    def _submit(self, work: Callable[[WandbSession], None]) -> None:
        if not self._ended.is_set():
            self._work.put(work)

    def _report(self, open_session: Callable[[], WandbSession]) -> None:
        """What the thread does."""
        try:
            session = open_session()
            for work in iter(self._work.get, None):
                work(session)
            session.finish()
        except Exception as error:
            self._end(" ".join(f"{type(error).__name__}: {error}".split()))
            _tear_down()
        self._ended.set()

    def _end(self, reason: str) -> None:
        """Ends reporting with one warning."""
        with self._ending:
            if self._ended.is_set():
                return
            self._ended.set()
        reason = reason.rstrip(".")
        self._warn(
            f"W&B: {reason}. Reporting has ended, training goes on; the next start sends what is "
            "missing"
        )


def _tear_down() -> None:
    """Lets go of W&B's service process, so that no exit hook waits for it or prints its errors."""
    with contextlib.suppress(Exception, SystemExit):
        import wandb

        wandb.teardown()
