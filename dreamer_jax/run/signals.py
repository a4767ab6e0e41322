"""Stop a run on Ctrl-C, and on the signals that cluster managers and lost terminals send."""

import contextlib
import os
import signal
import threading

URGENT = (signal.SIGTERM, signal.SIGINT)
# SLURM and submitit announce the end of a job by SIGTERM, SIGUSR1 or SIGUSR2.
SIGNALS = (*URGENT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Stopped(Exception):
    """A signal interrupted the run at a point from which it can resume."""


class StopSignals:
    """A context that turns the signals in `SIGNALS` into a request to stop.

    A second SIGTERM or SIGINT ends the process at once; the others may precede them, and come
    repeatedly. Signals that are ignored, as SIGHUP is by `nohup`, stay ignored. Only the main
    thread can handle signals; in another thread the context does nothing.
    """

    def __init__(self):
        self._old: dict[int, object] = {}
        self.requested = self._urgent = False

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._old = {
                number: signal.signal(number, self._handle)
                for number in SIGNALS
                if signal.getsignal(number) is not signal.SIG_IGN
            }
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        if self._urgent and number in URGENT:
            os._exit(128 + number)
        self._urgent |= number in URGENT
        if self.requested:
            return
        self.requested = True
        name = signal.Signals(number).name
        # Not by print: the interrupted code may hold the terminal's lock.
        message = f"\n{name}: stopping after this update and a checkpoint; repeat to stop at once\n"
        with contextlib.suppress(OSError):  # a closed terminal
            os.write(2, message.encode())
