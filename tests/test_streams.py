"""Printing where nothing can be printed."""

import io
import os
import shlex
import subprocess
import sys

import pytest

from dreamer_jax.report.progress import Progress
from dreamer_jax.streams import SafeStream

COMMAND = """
import sys
from dreamer_jax.commands.flags import Command
from dreamer_jax.commands.main import run
def main(args):
    print("the result of", chr(252), flush=True)
    print(chr(0xdcff) * 10_000)
    print("done", file=sys.stderr)
run("a command", Command("", lambda flags: None, main), [])
"""


def closed():
    stream = io.StringIO()
    stream.close()
    return stream


def full():
    return open("/dev/full", "w")


def broken_pipe():
    read, write = os.pipe()
    os.close(read)
    return open(write, "w")


def ascii_only():
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii")


@pytest.mark.parametrize("make", [lambda: None, closed, full, broken_pipe, ascii_only])
def test_progress_survives_its_stream(make):
    stream = make()
    with Progress(100, [0], stream=stream, plain_every=0) as progress:
        for step in range(3):
            progress.update(step, step, 0, [1.0])
            progress.print("Gr\u00fc\u00dfe \udcff \u65e5")
    safe = SafeStream(stream)
    safe.flush()
    if make is ascii_only:
        assert b"Gr\\xfc\\xdfe \\udcff \\u65e5\n" in stream.buffer.getvalue()
    if make in (full, broken_pipe):
        safe.settle()
        stream.close()  # raises if there is still something to be written


def test_the_live_display_survives_its_stream():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

        def write(self, text):
            raise OSError(5, "Input/output error")

    with Progress(100, [0], enabled=True, stream=Terminal()) as progress:
        progress.update(1, 4, 0, [1.0])
        progress.print("a message")


OUTPUTS = {
    "full": "exec {} > /dev/full",
    "pipe": "{{ {}; echo $? >&2; }} | true",
    "closed": "exec {} >&-",
    "ascii": "PYTHONIOENCODING=ascii exec {} > /dev/null",
}


SLOW = [pytest.param(name, marks=pytest.mark.slow) for name in ("pipe", "closed", "ascii")]


@pytest.mark.parametrize("output", ["full", *SLOW])
def test_a_command_survives_its_output(output):
    shell = OUTPUTS[output].format(f"{sys.executable} -c {shlex.quote(COMMAND)}")
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ("done\n0\n" if output == "pipe" else "done\n")
