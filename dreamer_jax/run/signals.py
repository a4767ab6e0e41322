"""Stopping a run from outside: by SIGTERM, as cluster managers do, or by Ctrl-C."""

import os
import signal
import threading

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(Exception):
    """Work was broken off, at a point from which it can go on, because the run is to stop."""


class StopSignals:
    """While entered, turns SIGTERM and SIGINT into a request; a second one ends the process.

    Signals can only be taken in the main thread; in another this does nothing.
    """

    def __init__(self):
        self._old: dict[int, object] = {}
        self.requested = False

    def check(self) -> None:
        """Raise Stopped if a signal has come."""
        if self.requested:
            raise Stopped

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._old = {number: signal.signal(number, self._handle) for number in SIGNALS}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        self._old = {}

    def _handle(self, number: int, frame: object) -> None:
        if self.requested:
            os._exit(128 + number)
        self.requested = True
        name = signal.Signals(number).name
        # Not by print: whatever the signal has interrupted may hold the terminal's lock.
        message = f"\n{name}: stops after this update and its checkpoint; again: stops at once\n"
        os.write(2, message.encode())
