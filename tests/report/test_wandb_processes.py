"""W&B reporting in real processes: signals, kills, exit."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from reported_runs import (
    UNREACHABLE,
    histories,
    log_rows,
    service_processes,
    wait_for,
    write,
)
from wandb_files import read_histories

SCRIPT = """
import signal, sys
from pathlib import Path
from dreamer_jax.report.wandb_runs import WandbRuns
assert "wandb" not in sys.modules
home, mode = Path(sys.argv[1]), sys.argv[2]
signal.signal(signal.SIGINT, lambda *_: print("interrupted", flush=True))
def start():
    return WandbRuns(
        home / "metrics.jsonl", mode=mode, project="project", entity=None, group="sweep", tags=(),
        member_configs=[{"seed": s} for s in (5, 6, 7)], state_file=home / "wandb.json",
        directory=home / "service", warn=lambda text: print(text, flush=True),
    )
def lines(count):
    return sum(map(len, (home / "metrics.jsonl").read_bytes().splitlines(True)[:count]))
reporter = start()
for line in sys.stdin:
    command, number = line.split()
    if command == "sync":
        reporter.sync(lines(int(number)))
    if command == "close":
        reporter.close(timeout=float(number))
        print("closed", flush=True)
    if command == "start":
        reporter = start()
"""


class Trainer:
    """A real process that reports, told what to do line by line; leads a process group."""

    def __init__(self, tmp_path, mode, environment):
        write(tmp_path / "metrics.jsonl", log_rows(10), log_rows(20), log_rows(30))
        self._directory = tmp_path / "service"
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(tmp_path), mode],
            env=os.environ | {"HOME": str(tmp_path)} | environment,
            cwd=Path(__file__).parents[2],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def do(self, command, number):
        self.process.stdin.write(f"{command} {number}\n")
        self.process.stdin.flush()

    def line(self):
        return self.process.stdout.readline().rstrip("\n")

    def wait_for_rows(self, count):
        """Until that many rows of every run are on the disk."""

        def written():
            runs = read_histories(self._directory).values()
            return len(runs) == 4 and all(len(run["history"]) == count for run in runs)

        wait_for(written, timeout=10)

    def end(self):
        """Ends its input. Returns: exit status, the rest of standard output, standard error."""
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


@pytest.fixture
def trainer(tmp_path):
    trainers = []

    def start(mode="offline", **environment):
        trainers.append(Trainer(tmp_path, mode, environment))
        return trainers[-1]

    yield start
    for trainer in trainers:
        trainer.process.kill()
        trainer.process.communicate()


linux = pytest.mark.skipif(sys.platform != "linux", reason="finds the service in /proc")


@linux
def test_a_killed_service_is_one_warning_and_the_next_start_catches_up(tmp_path, trainer):
    trainer = trainer()
    trainer.do("sync", 3)
    trainer.wait_for_rows(1)
    (service,) = service_processes(trainer.process.pid)
    os.kill(service, signal.SIGKILL)
    trainer.do("sync", 6)
    assert "Reporting has ended, training goes on" in trainer.line()
    trainer.do("sync", 6)
    trainer.do("close", 10)
    assert trainer.line() == "closed"
    trainer.do("start", 0)
    trainer.do("sync", 9)
    trainer.do("close", 10)
    assert trainer.line() == "closed"
    assert trainer.end() == (0, "", "")
    for run in histories(tmp_path):
        assert [row["env_step"] for row in run["history"]] == [10, 20, 30]


@linux
@pytest.mark.slow
def test_after_a_killed_service_the_process_ends_without_a_word(trainer):
    trainer = trainer()
    trainer.do("sync", 3)
    trainer.wait_for_rows(1)
    os.kill(service_processes(trainer.process.pid)[0], signal.SIGKILL)
    trainer.do("close", 10)
    assert "Reporting has ended" in trainer.line()
    assert trainer.line() == "closed"
    assert trainer.end() == (0, "", "")


@pytest.mark.slow
def test_an_interrupt_of_the_process_group_leaves_the_service_alive(tmp_path, trainer):
    trainer = trainer()
    trainer.do("sync", 3)
    trainer.wait_for_rows(1)
    os.killpg(trainer.process.pid, signal.SIGINT)
    assert trainer.line() == "interrupted"
    trainer.do("sync", 6)
    trainer.do("close", 10)
    assert trainer.end() == (0, "closed\n", "")
    for run in histories(tmp_path):
        assert [row["env_step"] for row in run["history"]] == [10, 20]


@pytest.mark.slow
def test_a_killed_process_keeps_what_was_flushed_and_sends_nothing_twice(tmp_path, trainer):
    killed = trainer()
    killed.do("sync", 6)
    killed.wait_for_rows(2)
    killed.process.kill()
    trainer = trainer()
    trainer.do("sync", 9)
    trainer.do("close", 10)
    assert trainer.end() == (0, "closed\n", "")
    for run in histories(tmp_path):
        assert [row["env_step"] for row in run["history"]] == [10, 20, 30]
        assert [row["_step"] for row in run["history"]] == [0, 1, 2]


@pytest.mark.slow
def test_a_service_out_of_reach_holds_up_neither_close_nor_exit(trainer):
    trainer = trainer("online", **UNREACHABLE, WANDB_INIT_TIMEOUT="5")
    trainer.do("sync", 6)
    trainer.do("close", 1)
    assert "not finished within 1 s" in trainer.line()
    assert trainer.line() == "closed"
    began = time.monotonic()
    trainer.process.stdin.close()
    assert trainer.process.wait(timeout=20) == 0
    assert time.monotonic() - began < 2
    trainer.process.stdin = None
    code, output, errors = trainer.end()
    assert (code, output) == (0, "")
    # W&B may have come as far as to say where its key is from.
    assert all("[wandb.login()] Loaded credentials" in line for line in errors.splitlines())


@pytest.mark.slow
def test_a_server_that_never_answers_does_not_hold_up_the_exit_of_an_offline_run(trainer):
    with socket.create_server(("127.0.0.1", 0)) as server:
        trainer = trainer(WANDB_BASE_URL=f"http://127.0.0.1:{server.getsockname()[1]}")
        trainer.do("sync", 6)
        trainer.do("close", 10)
        assert trainer.line() == "closed"
        began = time.monotonic()
        assert trainer.end() == (0, "", "")
        assert time.monotonic() - began < 4


@pytest.mark.slow
def test_without_a_login_there_is_a_warning_and_no_question_on_the_terminal(tmp_path):
    controller, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path), "online"],
        env=os.environ
        | {"HOME": str(tmp_path), "NETRC": str(tmp_path / "no"), "WANDB_API_KEY": ""},
        cwd=Path(__file__).parents[2],
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
        start_new_session=True,
    )
    os.write(controller, b"close 5\n\x04")  # typed ahead, with the end of the input
    out, _ = process.communicate(timeout=30)
    os.close(terminal)
    os.close(controller)
    warning, closed = out.splitlines()
    assert "No API key configured" in warning
    assert closed == "closed"
