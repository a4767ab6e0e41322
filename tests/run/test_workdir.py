"""Claiming a work directory: odd paths, files of others, killed starts, forked processes."""

import subprocess
import sys
from pathlib import Path

import pytest

from dreamer_jax import config as config_lib
from dreamer_jax import train
from dreamer_jax.errors import UsageError
from dreamer_jax.run.workdir import WorkDir

HOLDER = """
import ctypes, os, sys
from dreamer_jax import config
from dreamer_jax.run.workdir import WorkDir
with WorkDir(sys.argv[1]).claim(config.from_json(sys.argv[2])):
    print("claimed", flush=True)
    {then}
"""
LOCK = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'a'), fcntl.LOCK_EX | fcntl.LOCK_NB)"


def claims(workdir, config):
    with WorkDir(workdir).claim(config):
        return sorted(path.name for path in Path(workdir).iterdir())


def test_files_of_others_are_left_alone(tmp_path, tiny_config):
    """Logs and Hydra put their files where a run begins; a replay may be on another disk."""
    workdir, disk = tmp_path / "run", tmp_path / "disk"
    (workdir / ".hydra").mkdir(parents=True)
    disk.mkdir()
    (workdir / "log.txt").write_text("precious")
    (workdir / "replay").symlink_to(disk)
    found = claims(workdir, tiny_config)
    assert found == [".hydra", "config.json", "lock", "log.txt", "replay", "videos"]
    assert (workdir / "log.txt").read_text() == "precious"


@pytest.mark.parametrize("name", ["metrics.jsonl", "summary.json", "curves.png", "checkpoints/7/x"])
def test_what_a_run_would_overwrite_is_refused(tmp_path, tiny_config, name):
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("precious")
    with pytest.raises(UsageError, match=f"holds {name.split('/')[0]} but no run"):
        claims(tmp_path, tiny_config)
    assert file.read_text() == "precious" and not (tmp_path / "config.json").exists()


def test_checkpoints_are_no_link(tmp_path, tiny_config):
    (tmp_path / "checkpoints").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="holds checkpoints but no run"):
        claims(tmp_path, tiny_config)


def test_a_start_that_was_killed_leaves_nothing_in_the_way(tmp_path, tiny_config, monkeypatch):
    def kill(config):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(config_lib, "to_json", kill)
        claims(tmp_path / "run", tiny_config)
    (tmp_path / "run" / ".config.json.99.tmp").write_text("{")
    (tmp_path / "run" / "videos").mkdir(exist_ok=True)
    assert "config.json" in claims(tmp_path / "run", tiny_config)


def test_a_refused_start_leaves_the_directory_to_another_config(tmp_path, tiny_config):
    tiny_config.replay.capacity = 10**12
    with pytest.raises(OSError, match="lower its capacity"):
        train(tiny_config, tmp_path / "run")
    assert "lower its capacity" in (tmp_path / "run" / "error.txt").read_text()
    tiny_config.replay.capacity = 500
    found = claims(tmp_path / "run", tiny_config)
    assert "config.json" in found and "error.txt" not in found


def test_a_run_that_recorded_something_keeps_its_config(tmp_path, tiny_config):
    with pytest.raises(RuntimeError), WorkDir(tmp_path).claim(tiny_config):
        (tmp_path / "metrics.jsonl").write_text("{}")
        raise RuntimeError
    tiny_config.batch += 1
    with pytest.raises(UsageError, match="another config"):
        claims(tmp_path, tiny_config)


def holder(workdir, config, then):
    """Start a process that claims a directory; it ends when its standard input is closed."""
    command = [sys.executable, "-c", HOLDER.format(then=then), workdir, config_lib.to_json(config)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "claimed\n"
    return process


@pytest.mark.parametrize("fork", ["os.fork", "ctypes.PyDLL(None).fork"], ids=["os", "libc"])
def test_a_forked_process_does_not_keep_the_lock(tmp_path, tiny_config, fork):
    """The one that claimed ends, and the one that it forked outlives it."""
    outlive = f"{fork}() or sys.stdin.read(); os._exit(0)"
    with holder(tmp_path / "run", tiny_config, outlive) as ended:
        ended.wait()
        assert "config.json" in claims(tmp_path / "run", tiny_config)


def test_another_process_is_named(tmp_path, tiny_config):
    with holder(tmp_path / "run", tiny_config, "sys.stdin.read()") as process:
        with pytest.raises(UsageError, match=f"in use by process {process.pid} on .* since 20"):
            claims(tmp_path / "run", tiny_config)


def test_another_thread_is_kept_out_and_does_not_release_the_lock(tmp_path, tiny_config):
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with WorkDir(tmp_path / "run").claim(tiny_config):
        with pytest.raises(UsageError, match="in use by this process"):
            claims(tmp_path / "link", tiny_config)
        command = [sys.executable, "-c", LOCK, str(tmp_path / "run" / "lock")]
        assert "BlockingIOError" in subprocess.run(command, capture_output=True, text=True).stderr
    assert claims(tmp_path / "run", tiny_config)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("", "allowed: the path of a directory"),
        ("a\0b", "allowed: the path of a directory"),
        ("gs://bucket/run", "allowed: a local directory"),
        ("file:/run", "allowed: a local directory"),
        ("~nobody-of-this-name/run", "home directory"),
        ("/dev/null/run", "cannot be the work directory: Not a directory"),
        ("/proc/run", "cannot be the work directory: No such file"),
        ("x" * 300, "cannot be the work directory: File name too long"),
    ],
)
def test_paths_that_cannot_be_work_directories(tmp_path, monkeypatch, tiny_config, path, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=message):
        claims(path, tiny_config)
    assert not list(tmp_path.iterdir())


def test_a_file_is_no_work_directory(tmp_path, tiny_config):
    (tmp_path / "run").write_text("precious")
    with pytest.raises(UsageError, match="is a file; give a directory"):
        claims(tmp_path / "run", tiny_config)


def test_a_relative_path_outlives_a_change_of_directory(tmp_path, monkeypatch, tiny_config):
    """As by a simulator that looks for its files in its own directory."""
    monkeypatch.chdir(tmp_path)
    work = WorkDir("run")
    with work.claim(tiny_config):
        monkeypatch.chdir("/")
        work.write_summary({})
    assert (tmp_path / "run" / "summary.json").exists()
