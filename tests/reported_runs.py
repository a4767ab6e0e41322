"""A run of three members as its W&B reader finds it, and what the reader made of it."""

import json
import time
from pathlib import Path

from wandb_files import read_histories

from dreamer_jax.report.metrics_log import encode_row
from dreamer_jax.report.wandb.process import RunInfo

SEEDS = (5, 6, 7)
# No one listens there; the key has a valid form.
UNREACHABLE = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a" * 40}


def make_info(**changes):
    """Return what a trainer says of the run."""
    arguments = {
        "mode": "offline",
        "entity": None,
        "project": "project",
        "group": "sweep",
        "tags": ["catch"],
        "members": [{"seed": seed, "opt": {"lr": 1e-3}} for seed in SEEDS],
        "action_repeat": 4,
        "command": ["train.py", "--config=catch.py"],
    }
    return RunInfo(**(arguments | changes))


def make_rows(env_step, **metrics):
    """Return a row per member; a metric is a list of one value per member or a value for all."""
    return [
        {
            "member": member,
            "seed": seed,
            "env_step": env_step,
            "frame": 4 * env_step,
            "update": env_step // 2,
        }
        | {k: v[member] if isinstance(v, list) else v for k, v in metrics.items()}
        for member, seed in enumerate(SEEDS)
    ]


def log_rows(env_step, rate=1.5):
    """Return rows of a log step; `rate` stands for what differs when they are written again."""
    loss = [env_step + 0.25 * member for member in range(3)]
    returns = [None, 1.0, 3.0]
    return make_rows(env_step, loss=loss, train_return=returns, frames_per_s=rate)


def eval_rows(env_step):
    """Return rows of an evaluation."""
    return make_rows(env_step, eval_return=[1.0, 2.0, 6.0])


def write(path, *groups):
    """Write a new metrics.jsonl."""
    path.write_bytes(b"".join(encode_row(row) for rows in groups for row in rows))


def append(path, *groups):
    """Append to a metrics.jsonl."""
    with open(path, "ab") as file:
        file.write(b"".join(encode_row(row) for rows in groups for row in rows))


def histories(workdir):
    """Return what W&B has written: of the members in order, then of the aggregate."""
    runs = read_histories(workdir / "wandb")
    ids = json.loads((workdir / "wandb.json").read_text())["ids"]
    assert set(runs) <= set(ids)
    return [runs[run_id] for run_id in ids]


def wait_for(condition, timeout=20):
    """Wait until a condition holds."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def child_processes(parent, name):
    """Return the ids of a process's children whose command line contains a name."""
    pids = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rsplit(")", 1)[1].split()
            command = (path / "cmdline").read_text()
        except OSError:
            continue  # has ended meanwhile
        if name in command and int(fields[1]) == parent:
            pids.append(int(path.name))
    return pids


def reader_process(trainer):
    """Return the id of a training process's reader."""
    (pid,) = child_processes(trainer, "dreamer_jax.report.wandb")
    return pid


def service_process(trainer):
    """Return the id of the W&B service that a training process's reader has started."""
    (pid,) = child_processes(reader_process(trainer), "wandb-core")
    return pid


def is_running(pid):
    """Return whether a process exists and has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
