"""Signals that ask a run to stop."""

import os
import signal

import pytest

from dreamer_jax.run.signals import SIGNALS, StopSignals


@pytest.fixture(autouse=True)
def handlers():
    """Have the default handlers; a test run in the background may ignore some of the signals."""
    old = {number: signal.signal(number, signal.SIG_DFL) for number in SIGNALS}
    yield dict.fromkeys(SIGNALS, signal.SIG_DFL)
    for number, handler in old.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_each_signal_asks_to_stop(handlers, number):
    with StopSignals() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        assert stop.requested
    assert {number: signal.getsignal(number) for number in SIGNALS} == handlers


def test_warnings_may_come_repeatedly_and_before_the_request_to_end(monkeypatch):
    """As from SLURM: SIGUSR1 some time before SIGTERM. Only a second request ends the process."""
    statuses = []
    monkeypatch.setattr(os, "_exit", statuses.append)
    with StopSignals():
        for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert statuses == []
        os.kill(os.getpid(), signal.SIGINT)
        assert statuses == [128 + signal.SIGINT]


def test_ignored_signals_stay_ignored():
    """`nohup` ignores SIGHUP."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.requested


def test_a_closed_standard_error_is_no_obstacle(monkeypatch):
    def write(descriptor, content):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "write", write)
    with StopSignals() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.requested
