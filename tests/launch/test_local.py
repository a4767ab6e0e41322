"""Sweeps on one machine, as a user runs them: interrupted, edited, started twice, with failures."""

import shutil
import signal

import pytest
from sweep_files import (
    JOBS,
    NAMES,
    assert_same_results,
    finished,
    run_sweep,
    start_sweep,
    wait_for,
    write_sweep,
)

from dreamer_jax.launch.state import last_env_step
from dreamer_jax.run.workdir import WorkDir

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("compiled_as_here")]


def test_a_stopped_sweep_goes_on_where_it_was(undisturbed_sweep, tmp_path):
    file = write_sweep(tmp_path / "jobs.py", JOBS)
    work = WorkDir(tmp_path / "runs" / NAMES[0])
    for step, flags in enumerate(([], ["--require_finished"])):  # without it a stop is no failure
        process = start_sweep(file, tmp_path / "runs", "--launcher=local", *flags)
        wait_for(lambda step=step: last_env_step(work.metrics) > 40 * step)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate()
        assert process.returncode == len(flags), output
        assert f"{NAMES[0]}: unfinished at step" in output
        assert "2 jobs: 1 unfinished, 1 not begun" in output
    status, output = run_sweep(file, tmp_path / "runs", "--launcher=local", "--require_finished")
    assert status == 0, output
    assert_same_results(tmp_path / "runs", undisturbed_sweep)


def test_an_edited_sweep_runs_what_is_new_and_reports_what_fails(undisturbed_sweep, tmp_path):
    shutil.copytree(undisturbed_sweep, tmp_path / "runs")
    jobs = [*JOBS[1:], {"task": "gym:None"}, {"kl_scale": 0.3}]
    file = write_sweep(tmp_path / "jobs.py", jobs)
    status, output = run_sweep(file, tmp_path / "runs", "--launcher=local", "--at_once=2")
    assert status == 1
    assert "3 jobs: 2 finished, 1 failed" in output
    assert "failed: task=gym_None" in output and "None" in output.splitlines()[-1]
    assert f"{NAMES[1]}: running" not in output
    assert finished(tmp_path / "runs", "kl_scale=0.3")
    status, output = run_sweep(file, tmp_path / "runs", "--launcher=list")
    assert "no longer in the sweep: kl_scale=0.5" in output and "failed (" in output


def test_two_launchers_on_one_directory_share_the_jobs(undisturbed_sweep, tmp_path):
    file = write_sweep(tmp_path / "jobs.py", JOBS)
    both = [start_sweep(file, tmp_path / "runs", "--launcher=local") for _ in range(2)]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    shared = {(tmp_path / "runs" / name / "programs").resolve() for name in NAMES}
    assert shared == {tmp_path / "runs" / "programs"}
    assert_same_results(tmp_path / "runs", undisturbed_sweep)
