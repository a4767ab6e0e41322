"""Checkpoints on disk: which are kept, replaced, and recognized as damaged; and when to save."""

import errno
import gc
import json
import os
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax.errors import UsageError
from dreamer_jax.replay.replay import Replay
from dreamer_jax.run.checkpoint import Checkpoints, DamagedCheckpoint, Saver

TREE = {"weights": jnp.arange(1000.0), "keys": jax.random.split(jax.random.key(0), 3)}


@pytest.fixture
def opened(tmp_path):
    checkpoints = []

    def open_checkpoints(*args, **kwargs):
        checkpoints.append(Checkpoints(tmp_path / "checkpoints", *args, **kwargs))
        return checkpoints[-1]

    yield open_checkpoints
    for found in checkpoints:
        found.close()


def save(checkpoints, *steps):
    for step in steps:
        tree = {**TREE, "weights": TREE["weights"] + step}
        checkpoints.save(step, tree, {"step": step}, before=lambda: None)
        checkpoints.completed(wait=True)


def shapes():
    sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), TREE)


def largest_file(tmp_path, step):
    files = (tmp_path / "checkpoints" / str(step)).rglob("*")
    return max((f for f in files if f.is_file()), key=lambda f: f.stat().st_size)


def test_what_is_saved_comes_back(opened):
    save(opened(2), 7)
    arrays, host = opened().restore(7, shapes())
    assert host == {"step": 7} and np.array_equal(arrays["weights"], np.arange(1000.0) + 7)
    keys = [jax.random.key_data(tree["keys"]).tolist() for tree in (arrays, TREE)]
    assert keys[0] == keys[1]


@pytest.mark.parametrize(
    "name", ["a[1]", "a*", "a?", "a{1,2}", "a\nb", "a ", "a\\b", "gs:", "\udcff"]
)
def test_every_directory_name_can_be_read_again(tmp_path, name):
    """Libraries read some of these names as patterns or URLs."""
    (tmp_path / "a1").mkdir()  # what the patterns match
    directory = tmp_path / name / "checkpoints"
    checkpoints = Checkpoints(directory, 2)
    save(checkpoints, 3)
    checkpoints.close()
    assert (directory / "3" / "arrays").is_dir()
    reader = Checkpoints(directory)
    arrays, _ = reader.restore(3, shapes())
    reader.close()
    assert np.array_equal(arrays["weights"], np.arange(1000.0) + 3)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["a1", name])


def test_a_directory_without_a_safe_name_is_refused(tmp_path, monkeypatch):
    (tmp_path / "t[1]").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "t[1]"))
    with pytest.raises(UsageError, match="special characters"):
        Checkpoints(tmp_path / "a[1]" / "checkpoints", 2)
    assert not (tmp_path / "a[1]").exists()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("lost", ["arrays/manifest.ocdbt", "host/metadata", "arrays/_METADATA"])
def test_a_save_that_cannot_be_read_does_not_count(opened, tmp_path, lost):
    """Not even the first; the previous one of the step comes back."""
    checkpoints = opened(2)
    manager, wait = checkpoints._manager, checkpoints._manager.wait_until_finished

    def wait_and_lose():
        wait()
        (tmp_path / "checkpoints" / "4" / lost).unlink(missing_ok=True)

    manager.wait_until_finished = wait_and_lose
    with pytest.raises(OSError, match="the checkpoint of env step 4 could not be written"):
        save(checkpoints, 4)
    assert checkpoints.steps() == []
    checkpoints.check_left()
    # After a failed read orbax leaves coroutines behind that complain when they are collected.
    gc.collect()


def test_the_newest_and_those_nearest_to_multiples_are_kept(opened):
    checkpoints = opened(2, keep_every=100)
    save(checkpoints, 10, 60, 120, 130, 140, 190, 205, 230, 240)
    # 10 is nearest to 0, 120 to 100, 205 to 200.
    assert checkpoints.steps() == [240, 230, 205, 120, 10]


def test_a_step_that_is_saved_again_is_replaced(opened, tmp_path):
    save(opened(2), 5)
    checkpoints = opened(2)
    save_again(checkpoints)
    for reader in (checkpoints, opened()):
        arrays, host = reader.restore(5, shapes())
        assert host["again"] and np.array_equal(arrays["weights"], np.arange(1000.0))
    assert names(tmp_path) == {"checkpoints", "checkpoints.json"}


def save_again(checkpoints):
    checkpoints.save(5, TREE, {"step": 5, "again": True}, before=lambda: None)
    checkpoints.completed(wait=True)


SPEC = {"reward": ((), "float32")} | dict.fromkeys(
    ("is_first", "is_last", "is_terminal"), ((), "bool")
)


@pytest.mark.parametrize("resumed", [False, True])
def test_a_state_that_is_saved_already_is_not_saved_again(opened, tmp_path, resumed):
    sizes = {"num_envs": 1, "capacity": 20, "slack": 10, "batch": 1, "length": 2}
    replay = Replay(spec=SPEC, seeds=[0], sampling="time", directory=None, **sizes)
    members = [{"replay": record} for record in replay.state()]

    def save_state(saver, due):
        saver.save(TREE, {"env_step": 5, "update": 1, "due": due, "members": members})
        saver.collect(wait=True)
        return largest_file(tmp_path, 5).stat()

    def make_saver():
        return Saver(opened(2), replay, margin=1, minutes=0, warn=print)

    saver = make_saver()
    first = save_state(saver, ["evaluation"])
    if resumed:
        saver = make_saver()
        assert saver.restore(shapes())[1]["due"] == ["evaluation"]
    assert save_state(saver, ["evaluation"]) == first
    assert save_state(saver, []) != first
    assert make_saver().restore(shapes())[1]["due"] == []


def names(directory):
    return {path.name for path in directory.iterdir()}


def test_a_kill_before_the_replacement_is_complete_leaves_the_old_checkpoint(opened, tmp_path):
    save(opened(2), 5)
    (tmp_path / "checkpoints.replaced").mkdir()
    os.rename(tmp_path / "checkpoints" / "5", tmp_path / "checkpoints.replaced" / "5")
    (tmp_path / "checkpoints" / "5.orbax-checkpoint-tmp").mkdir()
    for keep in (None, 2, None):  # the writer puts it back
        checkpoints = opened(keep)
        assert checkpoints.steps() == [5] and checkpoints.restore(5, shapes())[1] == {"step": 5}
    assert names(tmp_path) == {"checkpoints", "checkpoints.json"}


def test_a_kill_after_the_replacement_is_complete_leaves_the_new_checkpoint(opened, tmp_path):
    save(opened(2), 5)
    shutil.copytree(tmp_path / "checkpoints" / "5", tmp_path / "old")
    save_again(opened(2))
    (tmp_path / "checkpoints.replaced").mkdir()
    os.rename(tmp_path / "old", tmp_path / "checkpoints.replaced" / "5")
    for keep in (None, 2, None):  # the writer removes the old one
        checkpoints = opened(keep)
        assert checkpoints.steps() == [5] and checkpoints.restore(5, shapes())[1]["again"]
    assert names(tmp_path) == {"checkpoints", "checkpoints.json"}


@pytest.mark.parametrize("older", [[], [3, 4]])
def test_a_kill_before_all_is_on_disk_leaves_what_was_complete(opened, tmp_path, older):
    """Orbax may have completed its files before the replay of that moment is on disk."""
    save(opened(2), *older)
    digests = (tmp_path / "checkpoints.json").read_text() if older else "{}"
    save(opened(3), 5)
    (tmp_path / "checkpoints.json").write_text(digests)
    for keep in (None, 2):
        checkpoints = opened(keep)
        assert checkpoints.steps() == older[::-1]
        checkpoints.check_left()
    save(checkpoints, 5)
    assert opened().steps() == [5, *older[1:]]


def test_a_kill_while_a_checkpoint_is_replaced_leaves_the_old_one(opened, tmp_path):
    save(opened(2), 3, 5)
    checkpoints = opened(2)
    copies = [tmp_path / "checkpoints", tmp_path / "checkpoints.json"]
    state = {}

    def note():  # what a killed process would leave once orbax has completed its files
        checkpoints._manager.wait_until_finished()
        for path in (*copies, tmp_path / "checkpoints.replaced"):
            copy = shutil.copytree if path.is_dir() else shutil.copy
            state[path] = copy(path, tmp_path / f"copy_{path.name}")

    checkpoints.save(5, TREE, {"again": True}, before=note)
    checkpoints.completed(wait=True)
    checkpoints.close()
    shutil.rmtree(tmp_path / "checkpoints")
    for path, copy in state.items():
        os.replace(copy, path)
    for keep in (None, 2, None):
        assert opened(keep).steps() == [5, 3]
        assert opened().restore(5, shapes())[1] == {"step": 5}
    damage_one_file(tmp_path, 5)
    with pytest.raises(DamagedCheckpoint, match="different checksum"):  # they are the old ones
        opened().restore(5, shapes())


def test_checkpoints_that_were_deleted_do_not_complete_others(opened, tmp_path):
    save(opened(3), 3, 6, 7)
    digests = (tmp_path / "checkpoints.json").read_text()
    for step in (6, 7):
        shutil.rmtree(tmp_path / "checkpoints" / str(step))
    save(opened(3), 5)
    (tmp_path / "checkpoints.json").write_text(digests)  # killed before 5 was complete
    assert opened().steps() == [3] and opened(3).steps() == [3]
    save(opened(3), 7)
    digests = json.loads((tmp_path / "checkpoints.json").read_text())
    checkpoints, seen = opened(3), []
    shutil.rmtree(tmp_path / "checkpoints" / "7")
    read = (tmp_path / "checkpoints.json").read_text
    checkpoints.save(7, TREE, {"step": 7}, before=lambda: seen.append(json.loads(read())))
    checkpoints.completed(wait=True)
    assert "7" in digests and "7" not in seen[0]  # whose checksums were of other files


def test_an_older_checkpoint_that_is_put_back_counts(opened, tmp_path):
    save(opened(2), 3)
    shutil.copytree(tmp_path / "checkpoints" / "3", tmp_path / "kept")
    save(opened(1), 5)
    shutil.rmtree(tmp_path / "checkpoints" / "5")
    with pytest.raises(UsageError, match="are gone or damaged"):
        opened(2).check_left()
    os.rename(tmp_path / "kept", tmp_path / "checkpoints" / "3")
    checkpoints = opened(2)
    checkpoints.check_left()
    assert checkpoints.steps() == [3] and checkpoints.restore(3, shapes())[1] == {"step": 3}


def test_completion_is_reported_once_and_after_what_must_come_before(opened):
    checkpoints, order = opened(2), []
    checkpoints.save(3, TREE, {"step": 3}, before=lambda: order.append(checkpoints.steps()))
    assert checkpoints.completed(wait=True) == {"step": 3}
    assert len(order) == 1 and checkpoints.completed(wait=True) is None


def test_a_shortened_file_is_noticed(opened, tmp_path):
    save(opened(2), 5)
    largest_file(tmp_path, 5).write_bytes(b"short")
    with pytest.raises(DamagedCheckpoint, match="has 5 bytes, expected"):
        opened().restore(5, shapes())


READ = """
import sys
from pathlib import Path
from dreamer_jax.errors import UsageError
from dreamer_jax.replay.replay import Replay
from dreamer_jax.run.checkpoint import Checkpoints, DamagedCheckpoint, Saver
try:
    Checkpoints(Path(sys.argv[1])).restore(5, {})
except DamagedCheckpoint:
    print("damaged")
"""


def test_without_checksums_what_cannot_be_read_is_damaged(opened, tmp_path):
    """As after a kill between the checkpoint and its checksums.

    In its own process: after a failed read orbax leaves coroutines behind that complain in a later
    test.
    """
    save(opened(2), 5)
    for path in (tmp_path / "checkpoints" / "5").rglob("*"):
        if path.is_file():
            path.write_bytes(b"short")
    (tmp_path / "checkpoints.json").unlink()
    arguments = [sys.executable, "-c", READ, str(tmp_path / "checkpoints")]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120)
    assert done.stdout == "damaged\n", done.stderr


def damage_one_file(tmp_path, step):
    path = largest_file(tmp_path, step)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_one_flipped_bit_is_noticed(opened, tmp_path):
    save(opened(2), 5)
    damage_one_file(tmp_path, 5)
    with pytest.raises(DamagedCheckpoint, match="different checksum"):
        opened().restore(5, shapes())


def test_a_missing_file_is_named(opened, tmp_path):
    save(opened(2), 5)
    path = largest_file(tmp_path, 5)
    path.unlink()
    with pytest.raises(DamagedCheckpoint, match=f"{path.name} is missing"):
        opened().restore(5, shapes())


def test_set_aside(opened, tmp_path):
    checkpoints = opened(3)
    for place in ("5", "5+"):
        save(checkpoints, 4, 5)
        assert checkpoints.set_aside(5) == tmp_path / "checkpoints.damaged" / place
        assert checkpoints.steps() == [4]


def test_what_a_killed_process_left_is_removed(opened, tmp_path):
    left = tmp_path / "checkpoints" / "9.orbax-checkpoint-tmp"
    left.mkdir(parents=True)
    (left / "part").write_bytes(b"1")
    assert opened().steps() == [] and left.exists()  # a reader leaves a writer's files alone
    save(opened(2), 9)
    assert not left.exists() and opened().steps() == [9]


@pytest.mark.parametrize(
    ("code", "step"), [(errno.ENOSPC, 2), (errno.EDQUOT, 2), (errno.EDQUOT, 1)]
)
def test_a_save_that_fails_names_its_step_and_changes_nothing(opened, code, step):
    checkpoints = opened(2)
    save(checkpoints, 1)

    def fails():
        raise ValueError(f"RESOURCE_EXHAUSTED: {os.strerror(code)}")  # as orbax raises it

    checkpoints.save(step, TREE, {"step": -1}, before=fails)
    message = f"the checkpoint of env step {step} could not be written"
    with pytest.raises(OSError, match=message) as error:
        checkpoints.completed(wait=True)
    assert error.value.errno == code and "the disk is full" in str(error.value)
    assert checkpoints.steps() == opened().steps() == [1]
    assert opened().restore(1, shapes())[1] == {"step": 1}


def test_damaged_checksums_do_not_cost_the_checkpoints(opened, tmp_path):
    save(opened(2), 1)
    for text in ('{"1": {', "[]", '{"1": 0}', '{"one": {}}'):
        (tmp_path / "checkpoints.json").write_text(text)
        assert opened().restore(1, shapes())[1] == {"step": 1} and opened().steps() == [1]
    save(opened(2), 2)
    assert opened().steps() == [2, 1]
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(UsageError, match="are gone or damaged"):
        opened(2).check_left()


def test_files_of_others_are_left_alone(opened, tmp_path):
    save(opened(2), 1)
    for place in ("checkpoints", "checkpoints.replaced"):
        (tmp_path / place / "notes").mkdir(parents=True)
    assert opened().steps() == [1]
    save(opened(1), 2)
    assert opened().steps() == [2] and (tmp_path / "checkpoints" / "notes").is_dir()


@pytest.mark.parametrize("keep", [1, 2])
def test_a_save_that_fails_at_its_end_leaves_the_others(opened, tmp_path, keep):
    """As on a disk that fills up after the files of the arrays: no checksums can be written."""
    checkpoints, file = opened(keep), tmp_path / "checkpoints.json"
    save(checkpoints, 1)

    def block():
        file.unlink()
        file.mkdir()

    checkpoints.save(2, TREE, {"step": 2}, before=block)
    with pytest.raises(OSError, match="the checkpoint of env step 2 could not be written"):
        checkpoints.completed(wait=True)
    file.rmdir()
    assert opened().steps() == [1]
    arrays, host = opened().restore(1, shapes())
    assert host == {"step": 1} and np.array_equal(arrays["weights"], np.arange(1000.0) + 1)
