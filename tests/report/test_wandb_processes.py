"""The trainer and its W&B reader as processes: signals, kills, the end."""

import json
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
    append,
    child_processes,
    histories,
    is_running,
    log_rows,
    make_info,
    reader_process,
    service_process,
    wait_for,
    write,
)
from wandb_files import read_histories

from dreamer_jax.report.wandb.__main__ import claim
from dreamer_jax.report.wandb.process import WandbProcess

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")

ROOT = Path(__file__).parents[2]
SCRIPT = """
import json, signal, sys, time
from pathlib import Path
from dreamer_jax.report.wandb.process import RunInfo, WandbProcess
workdir, info = Path(sys.argv[1]), RunInfo(**json.loads(sys.argv[2]))
warnings = []
def warn(text):
    warnings.append(text)
    print(text, flush=True)
signal.signal(signal.SIGINT, lambda *_: print("interrupted", flush=True))
def start():
    return WandbProcess(workdir, info, warn)
reader = start()
for line in sys.stdin:
    command, number = line.split()
    if command == "watch":
        while not warnings:
            reader.check()
            time.sleep(0.02)
        reader.check()
    if command == "close":
        reader.close(timeout=float(number))
        print("closed", flush=True)
    if command == "start":
        reader = start()
assert not {"wandb", "jax"} & set(sys.modules)
"""


class Trainer:
    """A process that starts a reader and obeys line by line; leads a process group."""

    def __init__(self, workdir, mode, environment):
        self._workdir = workdir
        info = json.dumps(vars(make_info(mode=mode)))
        self.process = subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(workdir), info],
            env=os.environ | {"HOME": str(workdir)} | environment,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def do(self, command, number=0):
        self.process.stdin.write(f"{command} {number}\n")
        self.process.stdin.flush()

    def line(self):
        return self.process.stdout.readline().rstrip("\n")

    def write(self, *steps):
        """Append log rows to the run."""
        append(self._workdir / "metrics.jsonl", *(log_rows(step) for step in steps))

    def wait_for_rows(self, count):
        """Wait until that many rows of every run are on the disk."""

        def written():
            runs = read_histories(self._workdir / "wandb").values()
            return len(runs) == 4 and all(len(run["history"]) == count for run in runs)

        wait_for(written)

    def end(self):
        """End its input. Return exit status, the rest of standard output, standard error."""
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


@pytest.fixture
def start_trainer(tmp_path):
    trainers = []

    def start(mode="offline", **environment):
        trainers.append(Trainer(tmp_path, mode, environment))
        return trainers[-1]

    write(tmp_path / "metrics.jsonl", log_rows(10))
    yield start
    for trainer in trainers:
        trainer.process.kill()
        trainer.process.communicate()


def assert_sent_once(workdir, steps):
    """Every run has one row of each env step, in order."""
    for run in histories(workdir):
        assert [row["env_step"] for row in run["history"]] == steps
        assert [row["_step"] for row in run["history"]] == list(range(len(steps)))


def test_runs_of_others_are_not_touched(tmp_path, start_trainer):
    """As in a program that `wandb agent` has started, with a run and a service of its own."""
    agent = {"SWEEP_ID": "abc", "RUN_ID": "theirs", "SERVICE": "3-1-unix-/nothing", "NAME": "x"}
    trainer = start_trainer(**{f"WANDB_{name}": value for name, value in agent.items()})
    trainer.do("close", 20)
    assert trainer.line() == "closed"
    assert_sent_once(tmp_path, [10])
    assert sorted(run["name"] for run in read_histories(tmp_path / "wandb").values()) == [
        "sweep/aggregate", "sweep/seed5", "sweep/seed6", "sweep/seed7",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("find", "reason"),
    [
        pytest.param(service_process, "", marks=pytest.mark.slow),
        (reader_process, "its process was ended by SIGKILL"),
    ],
)
def test_a_kill_is_one_warning_and_the_next_start_catches_up(tmp_path, start_trainer, find, reason):
    trainer = start_trainer()
    trainer.wait_for_rows(1)
    os.kill(find(trainer.process.pid), signal.SIGKILL)
    trainer.write(20)
    trainer.do("watch")
    warning = trainer.line()
    assert reason in warning and "Reporting has ended, training continues" in warning
    trainer.write(30)
    trainer.do("close", 10)
    assert trainer.line() == "closed"
    trainer.do("start")
    trainer.do("close", 20)
    assert trainer.line() == "closed"
    assert trainer.end() == (0, "", "")
    assert_sent_once(tmp_path, [10, 20, 30])


def test_a_killed_trainer_leaves_a_reader_that_sends_the_rest_and_ends(tmp_path, start_trainer):
    """A trainer that is restarted meanwhile has its reader wait: nothing is sent twice."""
    killed = start_trainer()
    killed.wait_for_rows(1)
    reader, service = reader_process(killed.process.pid), service_process(killed.process.pid)
    killed.write(20)
    killed.process.kill()
    trainer = start_trainer()
    trainer.write(30)
    trainer.do("close", 20)
    assert trainer.end() == (0, "closed\n", "")
    assert not is_running(reader) and not is_running(service)
    assert_sent_once(tmp_path, [10, 20, 30])


def test_a_reader_waits_for_another(tmp_path, start_trainer):
    (tmp_path / "wandb").mkdir()
    with claim(tmp_path):
        trainer = start_trainer()
        trainer.do("close", 3)
        assert "not finished within 3 s" in trainer.line()
        assert not (tmp_path / "wandb.json").exists()


@pytest.mark.slow
def test_a_service_killed_before_the_end_is_one_warning(start_trainer):
    trainer = start_trainer()
    trainer.wait_for_rows(1)
    os.kill(service_process(trainer.process.pid), signal.SIGKILL)
    trainer.do("close", 10)
    assert "Reporting has ended" in trainer.line()
    assert trainer.line() == "closed"
    assert trainer.end() == (0, "", "")


@pytest.mark.slow
def test_an_interrupt_of_the_process_group_does_not_reach_the_reader(tmp_path, start_trainer):
    trainer = start_trainer()
    trainer.wait_for_rows(1)
    os.killpg(trainer.process.pid, signal.SIGINT)
    assert trainer.line() == "interrupted"
    trainer.write(20)
    trainer.do("close", 10)
    assert trainer.end() == (0, "closed\n", "")
    assert_sent_once(tmp_path, [10, 20])


@pytest.mark.slow
def test_a_service_out_of_reach_holds_up_neither_close_nor_exit(start_trainer):
    trainer = start_trainer("online", **UNREACHABLE, WANDB_INIT_TIMEOUT="60")
    wait_for(lambda: child_processes(trainer.process.pid, "dreamer_jax.report.wandb"))
    reader = reader_process(trainer.process.pid)
    wait_for(lambda: child_processes(reader, "wandb-core"))
    service = service_process(trainer.process.pid)
    trainer.do("close", 1)
    assert "not finished within 1 s" in trainer.line()
    assert trainer.line() == "closed"
    began = time.monotonic()
    assert trainer.end() == (0, "", "")
    assert time.monotonic() - began < 2
    wait_for(lambda: not is_running(service))


@pytest.mark.slow
def test_a_server_that_never_answers_does_not_hold_up_the_end_of_an_offline_run(start_trainer):
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        trainer = start_trainer(WANDB_BASE_URL=url)
        trainer.wait_for_rows(1)
        began = time.monotonic()
        trainer.do("close", 10)
        assert trainer.end() == (0, "closed\n", "")
        assert time.monotonic() - began < 5


@pytest.mark.slow
def test_without_a_login_there_is_a_warning_and_no_question_on_the_terminal(tmp_path):
    write(tmp_path / "metrics.jsonl", log_rows(10))
    controller, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(tmp_path), json.dumps(vars(make_info(mode="online")))],
        env=os.environ
        | {"HOME": str(tmp_path), "NETRC": str(tmp_path / "no"), "WANDB_API_KEY": ""},
        cwd=ROOT,
        stdin=terminal,
        stdout=subprocess.PIPE,
        stderr=terminal,
        text=True,
        start_new_session=True,
    )
    os.write(controller, b"close 20\n\x04")  # typed ahead, with the end of the input
    out, _ = process.communicate(timeout=30)
    os.close(terminal)
    os.close(controller)
    warning, closed = out.splitlines()
    assert "No API key configured" in warning
    assert closed == "closed"


def run_by_hand(workdir, *arguments):
    command = [sys.executable, "-m", "dreamer_jax.report.wandb", str(workdir), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


def test_by_hand_it_sends_what_is_missing(tmp_path):
    path = tmp_path / "metrics.jsonl"
    write(path, log_rows(10))
    result = run_by_hand(tmp_path)
    assert result.returncode == 1
    assert "run.json does not exist" in result.stderr and "config.wandb.mode" in result.stderr
    assert list(tmp_path.iterdir()) == [path]
    make_info().save(tmp_path)
    result = run_by_hand(tmp_path)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    assert_sent_once(tmp_path, [10])


def test_a_reader_that_cannot_be_started_is_one_warning(tmp_path):
    (tmp_path / "wandb").write_text("a file")
    warnings = []
    reader = WandbProcess(tmp_path, make_info(), warnings.append)
    reader.check()
    reader.close()
    (warning,) = warnings
    assert "File exists" in warning and "Reporting has ended" in warning


FAKE = """
import sys, time
class CommError(Exception): pass
def Settings(**_): pass
def init(**_): {body}
"""


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        (FAKE.format(body="raise CommError('no\\n  entity.')"), "CommError: no entity"),
        (FAKE.format(body="raise CommError('jax' in sys.modules)"), "CommError: False"),
        (FAKE.format(body="time.sleep(100)"), "not finished within 2 s"),
        ("raise ModuleNotFoundError('no wandb')", "ModuleNotFoundError: no wandb"),
        ("import os; os.abort()", "ended by SIGABRT"),
        ("import os; os._exit(5)", "exit status 5"),
    ],
)
def test_whatever_fails_in_the_reader_is_one_warning(tmp_path, start_trainer, module, reason):
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "wandb.py").write_text(module)
    trainer = start_trainer(PYTHONPATH=f"{tmp_path / 'modules'}:{ROOT}")
    if "sleep" not in module:
        trainer.do("watch")
    trainer.do("close", 2)
    began = time.monotonic()
    status, output, errors = trainer.end()
    assert time.monotonic() - began < 10
    assert (status, errors) == (0, "")
    warning, closed = output.splitlines()
    assert warning.startswith("W&B: ") and f"{reason}. Reporting has ended" in warning
    assert closed == "closed"
