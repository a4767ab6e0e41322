"""A run of three members as W&B reporting meets it: its lines, and what came of them."""

import json
import time
from pathlib import Path

import wandb
from wandb_files import read_histories

from dreamer_jax.report.metrics_log import encode_row

SEEDS = (5, 6, 7)
# No one listens there; the key has a valid form.
UNREACHABLE = {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_API_KEY": "a" * 40}


def make_rows(env_step, **metrics):
    """A row per member; a metric is a list of one value per member or a value for all."""
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
    """Rows as of a log step; `rate` stands for what differs when they are written again."""
    loss = [env_step + 0.25 * member for member in range(3)]
    returns = [None, 1.0, 3.0]
    return make_rows(env_step, loss=loss, train_return=returns, frames_per_s=rate)


def eval_rows(env_step):
    return make_rows(env_step, eval_return=[1.0, 2.0, 6.0])


def write(path, *groups):
    """Writes a metrics.jsonl anew. Returns its size in bytes."""
    path.write_bytes(b"".join(encode_row(row) for rows in groups for row in rows))
    return path.stat().st_size


def histories(tmp_path):
    """What W&B has written: of the members in order, then of the aggregates."""
    wandb.teardown()
    runs = read_histories(tmp_path / "service")
    ids = json.loads((tmp_path / "wandb.json").read_text())["ids"]
    assert set(runs) <= set(ids)
    return [runs[run_id] for run_id in ids]


def wait_for(condition, timeout=20):
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def service_processes(parent):
    """Process ids of the W&B service that a process has started."""
    pids = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, fields = path.read_text().split("(", 1)[1].rsplit(")", 1)
        except OSError:
            continue  # has ended meanwhile
        if name == "wandb-core" and int(fields.split()[1]) == parent:
            pids.append(int(path.parent.name))
    return pids
