"""`wandb agent` runs the jobs of a sweep; W&B's service is a stand-in on this machine."""

import os
import subprocess
import sys

import pytest
import yaml
from commands import PATIENCE, ROOT
from sweep_files import write_sweep
from wandb_files import read_histories
from wandb_service import SweepService

from dreamer_jax.run.workdir import WorkDir

CHOSEN = {"job1": {"config.kl_scale": 0.3}, "job2": {"config.kl_scale": 0.5}}


@pytest.mark.slow
@pytest.mark.usefixtures("compiled_as_here")
def test_an_agent_trains_two_jobs_whose_aggregates_are_its_runs(tmp_path):
    """The command is the shipped sweep's, with a smaller config and W&B's files kept here."""
    write_sweep(tmp_path / "small.py", [], seeds=2, steps=80, eval_every=0)
    sweep = yaml.safe_load((ROOT / "configs" / "wandb_sweep.yaml").read_text())
    changes = {
        "exec dreamer-jax": f"exec {sys.executable} -m dreamer_jax",
        "--config=catch": "--config=small.py",
        "mode=online": "mode=offline",
    }
    for old, new in changes.items():
        assert old in sweep["command"][2]
        sweep["command"][2] = sweep["command"][2].replace(old, new)
    with SweepService(yaml.safe_dump(sweep), CHOSEN) as service:
        done = subprocess.run(
            [sys.executable, "-m", "wandb", "agent", "somebody/project/swept"],
            env=os.environ
            | service.variables
            | {"HOME": str(tmp_path), "WANDB_ERROR_REPORTING": "false"}
            | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    assert done.returncode == 0 and service.unknown == [], done.stderr
    for name, values in CHOSEN.items():
        work = WorkDir(tmp_path / "runs" / "wandb_sweep" / name)
        assert work.read_summary()["finished"], done.stdout + done.stderr
        runs = read_histories(work.path / "wandb")
        assert len(runs) == 3 and {run["job_type"] for run in runs.values()} == {
            "member",
            "aggregate",
        }
        own = runs[name]
        assert own["job_type"] == "aggregate" and own["sweep"] == "swept"
        assert own["config"]["config.kl_scale"] == values["config.kl_scale"]
        assert any("eval_return/mean" in row for row in own["history"])
        assert [run["sweep"] for key, run in runs.items() if key != name] == ["", ""]
        members = {run["config"]["kl_scale"] for key, run in runs.items() if key != name}
        assert members == {values["config.kl_scale"]}
