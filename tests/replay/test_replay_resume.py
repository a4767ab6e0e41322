"""Replay checkpoints, slack, files on disk, and errors."""

import collections
import json
import os
import shutil
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from replay_streams import SPEC, Streams, add_one, assert_same, fill, make_replay, make_step

from dreamer_jax.replay import ring
from dreamer_jax.replay.layout import make_layout
from dreamer_jax.replay.samplers import Indices


def random_script(streams, seed, steps, slack):
    """Operations of a run, with a checkpoint at least every `slack` steps."""
    rng, since = np.random.default_rng(seed), 0
    for _ in range(steps):
        yield "add", streams.step()
        since += 1
        if rng.random() < 0.5:
            yield "draw", None
        if rng.random() < 0.05:
            yield "close", streams.close()
        if since == slack or rng.random() < 0.05:
            since = 0
            yield "checkpoint", None


def perform(replay, operations):
    """Runs operations; returns what each gave: a batch, a JSON state, or None."""
    results = []
    for name, value in operations:
        result = None
        if name == "add":
            replay.add(*value)
        elif name == "close":
            replay.close_open(value)
        elif name == "draw" and replay.sampleable.all():
            result = replay.gather(replay.draw())
        elif name == "checkpoint":
            replay.pin()
            result = json.dumps(replay.state())
        results.append(result)
    return results


def scribble(replay, slack):
    """Do what a run may do between a checkpoint and its end by a kill."""
    everywhere = np.ones((2, 2), bool)
    replay.close_open(everywhere)
    for t in range(slack):
        mark = np.full((2, 2), t % 3 == 0), np.full((2, 2), t % 3 == 2)
        replay.add(make_step(np.full((2, 2), 77), *mark), everywhere)
    if replay.sampleable.all():
        replay.draw()
    replay.flush()


@pytest.mark.parametrize("sampling", ["time", "episodes"])
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_restored_run_equals_uninterrupted_run(sampling, where, tmp_path):
    slack = 6
    arguments = dict(seeds=[3, 4], num_envs=2, capacity=41, slack=slack, length=3)
    for seed in range(4):
        directory = tmp_path / str(seed) if where == "disk" else None
        arguments |= dict(sampling=sampling, directory=directory)
        script = list(random_script(Streams(2, 2, seed), seed, 150, slack))
        expected = perform(make_replay(**{**arguments, "directory": None}), script)
        checkpoints = [i for i, (name, _) in enumerate(script) if name == "checkpoint"]
        replay = make_replay(**arguments)
        empty = json.dumps(replay.state())
        scribble(replay, slack)
        replay.restore(json.loads(empty))
        done = 0
        for index in checkpoints[:: 1 + seed]:
            results = perform(replay, script[done : index + 1])
            for result, wanted in zip(results, expected[done : index + 1], strict=True):
                if isinstance(wanted, dict):
                    assert_same(result, wanted)
                else:
                    assert result == wanted
            scribble(replay, slack)
            if where == "disk":
                replay.close()
                replay = make_replay(**arguments)
            replay.restore(json.loads(results[-1]))
            done = index + 1
        assert done > len(script) // 2


def test_a_state_whose_records_are_gone_is_refused(tmp_path):
    """Also in another process, which sees nothing but the files."""
    replay = make_replay(capacity=4, slack=3, directory=tmp_path)
    for record in range(6):
        add_one(replay, record, is_first=record == 0)
        replay.pin()
        if record == 4:
            saved = json.loads(json.dumps(replay.state()))
    for record in range(6, 9):
        add_one(replay, record)
    replay.close()
    replay = make_replay(capacity=4, slack=3, directory=tmp_path)
    # Record 8 lies where record 1 was, the oldest of the four that were live at the state.
    with pytest.raises(ValueError, match="records of that moment are overwritten"):
        replay.restore(saved)
    assert replay.written.tolist() == [[0]]
    replay.close()
    shutil.rmtree(tmp_path / "0")  # what is lost altogether is not taken for zeros
    with pytest.raises(ValueError, match="overwritten or lost"):
        make_replay(capacity=4, slack=3, directory=tmp_path).restore(saved)


def test_slack_is_guarded_from_a_stored_checkpoint():
    replay = make_replay(capacity=4, slack=3)
    add_one(replay, 0, is_first=True)
    replay.pin()
    add_one(replay, 1)
    saved = replay.state()
    assert replay.remaining_slack == 2
    add_one(replay, 2)
    add_one(replay, 3)
    assert replay.remaining_slack == 0
    with pytest.raises(RuntimeError, match="slack of 3 steps per environment is used up"):
        add_one(replay, 4)
    replay.pin(saved)
    assert replay.remaining_slack == 1 and replay.written.tolist() == [[4]]
    add_one(replay, 4)
    with pytest.raises(RuntimeError, match="slack"):
        add_one(replay, 5)


def test_gather_in_the_background_while_adding():
    slack, streams = 300, Streams(2, 2, 0, masked=1.0)
    replay = make_replay(seeds=[1, 2], num_envs=2, capacity=400, slack=slack, batch=64, length=10)
    fill(replay, streams, 700)
    oldest = Indices(env=np.zeros((2, 1), np.int64), start=np.full((2, 1), 500))
    indices = replay.draw()
    expected, batches = replay.gather(indices), []
    writing = threading.Event()
    writing.set()

    def gather():
        while writing.is_set() or len(batches) < 2:
            batches.append((replay.gather(indices), replay.gather(oldest)))

    thread = threading.Thread(target=gather)
    thread.start()
    try:
        for _ in range(slack):
            replay.add(*streams.step())
    finally:
        writing.clear()
        thread.join()
    batches.append((replay.gather(indices), replay.gather(oldest)))
    for batch, early in batches:
        assert_same(batch, expected)
        rewards = [reward for reward, _, _ in streams.records[1][0][500:510]]
        np.testing.assert_array_equal(early["reward"][1, 0], rewards)
    replay.pin()
    replay.add(*streams.step())
    with pytest.raises(RuntimeError, match="too old"):
        replay.gather(oldest)


def test_reopening_another_layout_names_the_difference(tmp_path):
    make_replay(directory=tmp_path).close()
    with pytest.raises(ValueError, match="capacity: 4 -> 6"):
        make_replay(directory=tmp_path, capacity=6)
    make_replay(directory=tmp_path / "two", seeds=[1, 2]).close()
    with pytest.raises(ValueError, match="has 2 members, asked for 1"):
        make_replay(directory=tmp_path / "two")
    (tmp_path / "two" / "1" / "layout.json").unlink()  # killed before the last member was complete
    make_replay(directory=tmp_path / "two", seeds=[1, 2]).close()
    with pytest.raises(ValueError, match="entry 'depth': None -> "):
        make_replay(directory=tmp_path, spec={**SPEC, "depth": ((), np.float32)})
    with pytest.raises(ValueError, match=r"entry 'action': .*\[2\].* -> .*\[3\]"):
        make_replay(directory=tmp_path, spec={**SPEC, "action": ((3,), np.float32)})
    (tmp_path / "0" / "reward.bin").write_bytes(b"short")
    with pytest.raises(ValueError, match="damaged: 5 bytes, its layout needs 24"):
        make_replay(directory=tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(capacity=9, num_envs=5, length=2), "keeps 1 steps per environment"),
        (
            dict(sampling="episode"),
            "'episode'; choose one of: episodes, episodes_uniform, time. Did you mean 'episodes'",
        ),
        (dict(slack=0), "slack must be at least 1, got 0"),
        (dict(batch=0), "batch must be at least 1, got 0"),
        (dict(length=0), "length must be at least 1, got 0"),
        (dict(num_envs=0), "num_envs must be at least 1, got 0"),
        (dict(seeds=[]), "at least 1 member"),
        (dict(seeds=[1, -1]), r"not be negative, got -1"),
        (dict(spec={"reward": ((), np.float32)}), "lacks .*is_first"),
        (dict(spec={**SPEC, "is_last": ((), np.float32)}), "'is_last' must be bool, got float32"),
        (dict(spec={**SPEC, "reward": ((1,), np.float32)}), "'reward' must be a scalar"),
        (dict(spec={**SPEC, "image": ((0, 2), np.uint8)}), "'image' has shape"),
    ],
)
def test_bad_arguments_are_refused_before_allocation(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        make_replay(directory=tmp_path / "ring", **changes)
    assert not (tmp_path / "ring").exists()


def test_bad_steps_and_states_change_nothing():
    replay, mask = make_replay(), np.ones((1, 1), bool)
    step = make_step([[1]], [[True]], [[False]])
    bad = [
        ({**step, "rewards": step["reward"]}, mask, "not 'rewards'. Did you mean 'reward'"),
        ({key: step[key] for key in step if key != "action"}, mask, "lacks 'action'"),
        ({**step, "action": step["action"][..., :1]}, mask, r"'action' is float32 \(1, 1, 1\)"),
        ({**step, "image": step["image"] / 255}, mask, "'image' is float64"),
        (step, mask[0], r"mask has shape \(1,\), expected \(1, 1\)"),
        ({**step, "is_first": ~step["is_first"]}, mask, "continues without is_first"),
    ]
    for changed, changed_mask, message in bad:
        with pytest.raises(ValueError, match=message):
            replay.add(changed, changed_mask)
    other = make_replay(seeds=[1, 2]).state()
    with pytest.raises(ValueError, match=r"\(2, 1\), expected \(1, 1\)"):
        replay.restore(other)
    assert replay.written.tolist() == [[0]]
    replay.close()
    with pytest.raises(RuntimeError, match="closed"):
        replay.add(step, mask)


def test_open_files_of_earlier_rings_are_counted(tmp_path):
    """In a process of its own, whose limit is lowered."""
    code = f"""
import resource
from replay_streams import make_replay
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
kept = [make_replay(seeds=range(120), directory={str(tmp_path)!r} + name) for name in "ab"]
"""
    path = os.pathsep.join(filter(None, sys.path))
    subprocess.run([sys.executable, "-c", code], check=True, env=os.environ | {"PYTHONPATH": path})


def test_full_disk_is_refused_with_numbers(tmp_path, monkeypatch):
    usage = collections.namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(free=100))
    # 6 slots of 6 (image) + 8 (action) + 4 (reward) + 3 (flags) bytes.
    assert make_layout(spec=SPEC, num_envs=1, capacity=4, slack=2, length=2).nbytes == 126
    with pytest.raises(OSError, match="126 more bytes .* but 100 "):
        make_replay(directory=tmp_path / "ring")
    assert not (tmp_path / "ring").exists()


def test_a_large_ring_starts_sparse(tmp_path):
    spec = {**SPEC, "image": ((64, 64, 1), np.uint8)}
    sizes = dict(spec=spec, num_envs=2, capacity=2_000_000, slack=1000, length=50)
    needed = make_layout(**sizes).nbytes
    assert needed == 2 * 1_001_000 * (4096 + 8 + 4 + 3)
    if shutil.disk_usage(tmp_path).free < needed:
        pytest.skip("the full replay would not fit on this disk")
    began = time.perf_counter()
    replay = make_replay(directory=tmp_path, sampling="episodes", **sizes)
    assert time.perf_counter() - began < 5
    step = make_step(np.ones((1, 2)), np.ones((1, 2)), np.zeros((1, 2)))
    step["image"] = np.ones((1, 2, 64, 64, 1), np.uint8)
    replay.add(step, np.ones((1, 2), bool))
    replay.close()
    files = list(tmp_path.glob("0/*.bin"))
    assert sum(file.stat().st_size for file in files) == needed
    taken = sum(file.stat().st_blocks * 512 for file in files)
    assert taken < ring.CHUNK + 2**20
