"""The faults of docs/reliability.md that concern complete runs, each injected for real."""

import contextlib
import ctypes
import itertools
import os
import shutil
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from killing import Run, assert_same_run, catch_config, live_records, newest, rows

from dreamer_jax import evaluate, train
from dreamer_jax.errors import UsageError
from dreamer_jax.run import trainer
from dreamer_jax.run.evaluation import play_episodes
from dreamer_jax.run.setup import RunSetup

END = ["evaluation", "pictures", "checkpoint"]  # due after the last updates


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    """The work directory of the same run at half of its steps."""
    workdir = tmp_path_factory.mktemp("runs") / "unfinished"
    config = catch_config()
    config.steps = 150
    train(config, workdir)
    return workdir


@pytest.fixture
def copy(unfinished, tmp_path):
    return Path(shutil.copytree(unfinished, tmp_path / "run"))


def checkpoints_of(workdir):
    return sorted(int(path.name) for path in (workdir / "checkpoints").iterdir())


# Signals.


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR2])
def test_a_signal_stops_the_run_in_order(catch_run, tmp_path, number):
    config = catch_config(checkpoint_every=0)
    with Run(config, tmp_path / "run") as run:
        assert run.wait_until(lambda: run.records() > 100), run.text()
        assert run.signal(number) == 0, run.text()
    assert number.name in run.text() and "'finished': False" in run.text()
    stopped = newest(tmp_path / "run")[1]
    assert 80 < stopped["env_step"] < 300
    assert train(config, tmp_path / "run")["finished"]
    assert_same_run(tmp_path / "run", catch_run)


@pytest.mark.slow
def test_a_signal_stops_an_evaluation(catch_run, tmp_path, monkeypatch):
    """A resumed run makes the evaluation at its step, in the middle of the run and at its end.

    The last checkpoint then replaces the one of the same step that said that work was due.
    """
    calls = []

    def play_and_get_a_signal(*args, check, **kwargs):
        calls.append(1)
        if len(calls) in (2, 4):
            os.kill(os.getpid(), signal.SIGTERM)
        return play_episodes(*args, check=check, **kwargs)

    monkeypatch.setattr("dreamer_jax.run.trainer.play_episodes", play_and_get_a_signal)
    for step, due in ((200, ["evaluation", "checkpoint"]), (300, END)):
        result = train(catch_config(), tmp_path / "run")
        assert (result["finished"], result["env_step"], result["members"]) == (False, step, None)
        assert newest(tmp_path / "run")[1]["due"] == due
    assert train(catch_config(), tmp_path / "run")["finished"]
    assert len(calls) == 5
    assert_same_run(tmp_path / "run", catch_run)


@pytest.mark.slow
def test_a_second_signal_ends_the_process_at_once(tmp_path):
    config = catch_config(steps=100_000, eval_episodes=2_000)
    with Run(config, tmp_path / "run") as run:
        assert run.wait_until(lambda: run.records() > 100), run.text()
        run.process.send_signal(signal.SIGTERM)
        assert run.signal(signal.SIGINT) in (128 + signal.SIGTERM, 128 + signal.SIGINT)


# Checkpoints.


def test_a_damaged_checkpoint_is_set_aside(catch_run, copy, capsys):
    newest_step, older = checkpoints_of(copy)[::-1]
    files = [path for path in (copy / "checkpoints" / str(newest_step)).rglob("*")]
    largest = max((path for path in files if path.is_file()), key=lambda path: path.stat().st_size)
    os.truncate(largest, largest.stat().st_size // 2)
    assert evaluate(copy, episodes=1)["env_step"] == older  # reads past it, moves nothing
    assert checkpoints_of(copy) == [older, newest_step]
    assert train(catch_config(), copy)["finished"]
    printed = capsys.readouterr().out
    assert f"checkpoint of env step {newest_step} is damaged" in printed
    assert f"resuming at env step {older}" in printed
    assert (copy / "checkpoints.damaged" / str(newest_step)).is_dir()
    assert_same_run(copy, catch_run)


@pytest.mark.slow
def test_a_deleted_checkpoint_is_done_without(catch_run, copy):
    shutil.rmtree(copy / "checkpoints" / str(checkpoints_of(copy)[-1]))
    assert train(catch_config(), copy)["finished"]
    assert_same_run(copy, catch_run)


def test_without_any_checkpoint_nothing_is_overwritten(copy):
    shutil.rmtree(copy / "checkpoints")
    before = (copy / "metrics.jsonl").read_bytes()
    with pytest.raises(UsageError, match="gone or damaged"):
        train(catch_config(), copy)
    assert (copy / "metrics.jsonl").read_bytes() == before


def test_a_checkpoint_that_the_replay_has_outrun_is_refused(copy):
    """An old checkpoint that was put back is of no use: its records are overwritten."""
    high_water = np.memmap(copy / "replay" / "0" / "high_water.i64", np.int64, "r+")
    high_water += 100_000
    high_water.flush()
    with pytest.raises(UsageError, match="cannot resume from env step 150: .* overwritten"):
        train(catch_config(), copy)


@pytest.mark.slow
def test_a_second_process_is_refused(tmp_path):
    with Run(catch_config(steps=100_000), tmp_path / "run") as run:
        assert run.wait_until(lambda: run.records() > 0), run.text()
        pid = run.process.pid
        with pytest.raises(UsageError, match=f"in use by process {pid} on .* since 20"):
            train(catch_config(steps=100_000), tmp_path / "run")
        assert run.process.poll() is None
        run.kill()
    # What the dead process left behind is no obstacle.
    assert train(catch_config(steps=60), tmp_path / "run")["finished"]


# Disks.


@pytest.fixture
def small_disk(tmp_path):
    """Return a function that mounts a tmpfs of a given size, or skips if that is not allowed."""
    libc = ctypes.CDLL(None, use_errno=True)
    path = tmp_path / "disk"
    path.mkdir()

    def mount(megabytes):
        options = f"size={megabytes}m".encode()
        if libc.mount(b"tmpfs", os.fsencode(path), b"tmpfs", 0, options):
            pytest.skip(f"mounting is not allowed here: {os.strerror(ctypes.get_errno())}")
        return path

    yield mount
    libc.umount2(os.fsencode(path), 2)


def fill(disk):
    """Take all space on a disk."""
    with open(disk / "ballast", "wb", buffering=0) as file:
        for size in (2**20, 2**12):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


def at_steps(patch, events):
    """Call functions in the middle of env steps, counted from the end of the prefill."""
    original, count = trainer.to_env_actions, itertools.count(1)

    def to_env_actions(action, spec):
        events.get(next(count), lambda: None)()
        return original(action, spec)

    patch.setattr(trainer, "to_env_actions", to_env_actions)


def disk_config(**changes):
    return catch_config(checkpoint_keep=1, video_every=0, eval_every=0, **changes)


def assert_goes_on(workdir, config, tmp_path):
    """Assert that a stopped run, resumed with free space, ends as an undisturbed one."""
    assert train(config, workdir)["finished"]
    train(config, tmp_path / "reference")
    assert_same_run(workdir, tmp_path / "reference")


@pytest.mark.slow
def test_a_disk_too_full_for_the_replay_stops_the_run(small_disk, tmp_path, monkeypatch):
    disk = small_disk(64)
    config = disk_config(checkpoint_every=90)
    # Allocate in small pieces, so that the replay meets the full disk as a large one would.
    monkeypatch.setattr("dreamer_jax.replay.ring.CHUNK", 2**18)
    with monkeypatch.context() as patch:
        at_steps(patch, {100: lambda: fill(disk)})
        with pytest.raises(OSError, match="stopped at env step") as error:
            train(config, disk / "run")
    assert "replay" in str(error.value)
    (disk / "ballast").unlink()
    assert_goes_on(disk / "run", config, tmp_path)


@pytest.mark.slow
def test_a_disk_too_full_for_a_checkpoint_stops_the_run(small_disk, tmp_path):
    """In its own process: orbax leaves callbacks behind that the interpreter complains about."""
    disk = small_disk(64)
    config = disk_config()
    (disk / "run").mkdir()
    workdir = tmp_path / "run"  # what the process prints goes beside it, to another disk
    workdir.symlink_to(disk / "run")
    with Run(config, workdir) as run:
        assert run.wait_until(lambda: run.records() > 100), run.text()
        fill(disk)
        assert run.process.wait(60) == 1, run.text()
    assert "stopped at env step" in run.text() and "checkpoint of env step" in run.text()
    (disk / "ballast").unlink()
    assert_goes_on(workdir, config, tmp_path)


@pytest.mark.slow
def test_a_disk_too_full_for_pictures_and_metrics_does_not_stop_the_run(
    small_disk, tmp_path, monkeypatch, capsys
):
    """The replay has its space already, and no checkpoint is due before there is space again."""
    disk = small_disk(64)
    config = disk_config()
    config.update({"checkpoint_every": 0, "video_every": 100, "replay": {"slack": 2_000}})
    with monkeypatch.context() as patch:
        at_steps(patch, {10: lambda: fill(disk), 200: (disk / "ballast").unlink})
        assert train(config, disk / "run")["finished"]
    printed = capsys.readouterr().out
    assert "no picture at env step 100" in printed
    train(config, tmp_path / "reference")
    assert_same_run(disk / "run", tmp_path / "reference")


# Members.


@pytest.mark.slow
def test_damaged_parameters_of_one_member(tmp_path, monkeypatch, capsys):
    """A member with NaN is frozen and marked; the two others are equal bit for bit."""
    config = catch_config(seeds=3, steps=200, max_nonfinite=5)
    train(config, tmp_path / "clean")
    original = RunSetup.init_state

    def poisoned(setup):
        state = original(setup)
        actor = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), state.params["actor"])
        return state.replace(params={**state.params, "actor": actor})

    monkeypatch.setattr(RunSetup, "init_state", poisoned)
    train(config, tmp_path / "poisoned")
    clean, found = rows(tmp_path / "clean"), rows(tmp_path / "poisoned")
    assert [row for row in found if row["member"] != 1] == [r for r in clean if r["member"] != 1]
    logged = [row for row in found if row["member"] == 1 and "skipped_updates" in row]
    assert logged[-1]["frozen"] and logged[-1]["skipped_updates"] == 5
    assert not logged[0]["frozen"] and "model_loss" not in logged[-1]
    assert "member 1 (seed 1) is frozen" in capsys.readouterr().out
    arrays, expected = newest(tmp_path / "poisoned")[0], newest(tmp_path / "clean")[0]
    for leaf, other in zip(jax.tree.leaves(arrays), jax.tree.leaves(expected), strict=True):
        assert np.array_equal(leaf[[0, 2]], other[[0, 2]])
    records, expected = (
        live_records(tmp_path / name, newest(tmp_path / name)[1]) for name in ("poisoned", "clean")
    )
    assert all(np.array_equal(records[k], expected[k]) for k in expected if k[1] != 1)
