"""Stop a run on SIGTERM, which cluster managers send, or on Ctrl-C."""

import os
import signal
import threading

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """A signal interrupted the run at a point from which it can resume."""


class StopSignals:
    """A context that turns SIGTERM and SIGINT into a request to stop.

    A second signal ends the process at once. Only the main thread can handle signals; in another
    thread the context does nothing.
    """

    def __init__(self):
        self._old: dict[int, object] = {}
        self.requested = False

    def check(self) -> None:
        """Raise Stopped if a signal has arrived."""
        if self.requested:
            raise Stopped

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._old = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: object) -> None:
        if self.requested:
            os._exit(128 + number)
        self.requested = True
        name = signal.Signals(number).name
        # Not by print: the interrupted code may hold the terminal's lock.
        message = f"\n{name}: stopping after this update and a checkpoint; repeat to stop at once\n"
        os.write(2, message.encode())
