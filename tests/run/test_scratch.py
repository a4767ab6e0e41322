"""A replay on local scratch, found again, copied or refilled by a resumed run."""

import contextlib
import copy
import os
import re
import shutil
import signal

import jax
import numpy as np
import pytest
from killing import live_records, rows
from member_runs import killed_after, make_env, member_config, newest
from replay_streams import SPEC, Streams, assert_same, make_replay

from dreamer_jax import config as config_lib
from dreamer_jax import train
from dreamer_jax.errors import UsageError
from dreamer_jax.replay.layout import make_layout
from dreamer_jax.run.driver import Driver
from dreamer_jax.run.scratch import Scratch, replay_directory
from dreamer_jax.run.workdir import WorkDir

SIZES = {"num_envs": 2, "capacity": 24, "slack": 8, "length": 3}


class Machine:
    """A process of a run of two members on a machine with a scratch of its own."""

    def __init__(self, tmp_path, name, resumed, lost="copy"):
        self.work, self.said = WorkDir(tmp_path / "run"), []
        self.work.path.mkdir(exist_ok=True)
        config = config_lib.default_config()
        with config.ignore_type():
            config.replay.update({"scratch": str(tmp_path / name), "lost": lost})
        self.scratch = Scratch(config, self.work, range(2))
        layout = make_layout(spec=SPEC, **SIZES)
        self.refill = self.scratch.open(layout, resumed=resumed, say=self.said.append)
        places = {"directory": self.scratch.directory}
        places["copy"] = self.work.replay if lost == "copy" else None
        self.replay = make_replay(seeds=[7, 8], **places, **SIZES)


def save(replay):
    """Save a checkpoint of a replay."""
    replay.flush()
    replay.pin()
    return replay.state()


def test_a_run_goes_from_machine_to_machine_with_its_copy(tmp_path):
    """Over several turns of the ring, and back to a scratch that has fallen behind."""
    streams, state = Streams(2, 2, seed=3), None
    reference = make_replay(seeds=[7, 8], directory=None, **SIZES)
    for number, name in enumerate("aaabbaababba"):
        machine = Machine(tmp_path, name, resumed=state is not None)
        moved = number == 0 or name != "aaabbaababba"[number - 1]
        assert ("last attempt" in " ".join(machine.said)) == (not moved)
        if state is not None:
            machine.replay.restore(state)
            drawn = [replay.gather(replay.draw()) for replay in (machine.replay, reference)]
            assert_same(*drawn)
        for _ in range(3):
            step, closed = [streams.step() for _ in range(5)], streams.close()
            for replay in (machine.replay, reference):
                for given in step:
                    replay.add(*given)
                replay.close_open(closed)
                state = save(replay)
        # Steps after the checkpoint, which must not be seen again.
        ahead = copy.deepcopy(streams)
        for _ in range(4):
            machine.replay.add(*ahead.step())
        machine.replay.close_open(ahead.close())
        machine.replay.close()


def test_without_a_copy_the_loss_is_reported_before_anything_is_changed(tmp_path):
    Machine(tmp_path, "a", resumed=False).replay.close()
    shutil.rmtree(tmp_path / "run" / "replay")
    with pytest.raises(UsageError, match="layout.json is missing; the run cannot be resumed"):
        Machine(tmp_path, "b", resumed=True)
    assert "last attempt" in Machine(tmp_path, "a", resumed=True).said[0]


def test_a_replay_to_refill_counts_once_it_is_kept(tmp_path):
    assert not Machine(tmp_path, "a", resumed=False, lost="refill").refill
    assert not Machine(tmp_path, "a", resumed=True, lost="refill").refill
    for _ in range(2):  # the first one is killed before it has saved
        machine = Machine(tmp_path, "b", resumed=True, lost="refill")
        assert machine.refill and "new steps of the policy" in machine.said[0]
    machine.scratch.keep()
    assert not Machine(tmp_path, "b", resumed=True, lost="refill").refill
    assert Machine(tmp_path, "a", resumed=True, lost="refill").refill
    assert not (tmp_path / "run" / "replay").exists()


def test_a_scratch_without_room_is_named_before_anything_is_changed(tmp_path, monkeypatch):
    Machine(tmp_path, "a", resumed=False).replay.close()
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100))
        with pytest.raises(OSError, match="the replay will need .* but 100 .* are free") as error:
            Machine(tmp_path, "b", resumed=True)
    assert str(tmp_path / "b") in str(error.value) and not (tmp_path / "b").exists()
    assert "last attempt" in Machine(tmp_path, "a", resumed=True).said[0]


@pytest.mark.parametrize(("given", "problem"), [("$NOT_SET/x", "$NOT_SET is not"), ("x", "rel")])
def test_a_scratch_must_be_an_absolute_path(tmp_path, given, problem):
    config = config_lib.default_config()
    with config.ignore_type():
        config.replay.scratch = given
    with pytest.raises(UsageError, match=re.escape(problem)):
        replay_directory(config, WorkDir(tmp_path))


@pytest.mark.slow
def test_a_run_on_another_scratch_ends_as_on_one_disk(killed_run, finished_run, tmp_path):
    def config(name, steps=200):
        scratch = {"scratch": str(tmp_path / name), "lost": "copy"}
        replay = member_config((7, 3, 5)).replay.to_dict() | scratch
        return member_config((7, 3, 5), steps=steps, replay=replay)

    with killed_after(84):
        train(config("a"), tmp_path / "run", make_env)
    train(config("b", steps=240), tmp_path / "run", make_env)
    assert rows(tmp_path / "run") == rows(finished_run)
    (arrays, host), (expected, expected_host) = newest(tmp_path / "run"), newest(finished_run)
    jax.tree.map(np.testing.assert_array_equal, arrays, expected)
    assert host["members"] == expected_host["members"]
    copied, records = (live_records(path, host) for path in (tmp_path / "run", finished_run))
    for key, array in records.items():
        np.testing.assert_array_equal(copied[key], array)


@pytest.mark.slow
def test_a_lost_replay_is_refilled_by_the_policy(tmp_path, capsys):
    def config(name):
        replay = member_config(2).replay.to_dict()
        replay |= {"scratch": str(tmp_path / name), "lost": "refill"}
        return member_config(2, replay=replay)

    with killed_after(84):
        train(config("a"), tmp_path / "run", make_env)
    result = train(config("b"), tmp_path / "run", make_env)
    assert result["finished"] and result["env_step"] == 200
    assert (
        "lacks the replay of this run: new steps of the policy refill it" in capsys.readouterr()[0]
    )
    host = newest(tmp_path / "run")[1]
    # Both environments of each member: the prefill, and the steps from 150 on, with the resets.
    for member in host["members"]:
        assert 40 + 50 <= sum(member["replay"]["written"]) < 40 + 50 + 40
    assert not (tmp_path / "run" / "replay").exists()


@contextlib.contextmanager
def stopped_after(steps):
    """Send SIGTERM to the run inside at so many environment steps."""
    original, calls = Driver.step, []

    def step(self, actions):
        calls.append(1)
        if len(calls) == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, actions)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Driver, "step", step)
        yield


@pytest.mark.slow
def test_a_stop_while_the_replay_is_refilled_begins_the_refill_again(tmp_path, capsys):
    def config(name):
        replay = member_config(1).replay.to_dict()
        replay |= {"scratch": str(tmp_path / name), "lost": "refill"}
        return member_config(1, replay=replay, eval_episodes=0, video_every=0)

    with killed_after(84):
        train(config("a"), tmp_path / "run", make_env)
    with stopped_after(3):
        assert not train(config("b"), tmp_path / "run", make_env)["finished"]
    capsys.readouterr()
    assert train(config("b"), tmp_path / "run", make_env)["finished"]
    assert "new steps of the policy refill it" in capsys.readouterr()[0]


@pytest.mark.slow
def test_a_refused_start_leaves_the_replay_on_the_scratch(tmp_path, capsys):
    def config(**scratch):
        replay = member_config(1).replay.to_dict() | {"lost": "refill"} | scratch
        return member_config(1, replay=replay, eval_episodes=0, video_every=0)

    run, on_scratch = tmp_path / "run", config(scratch=str(tmp_path / "a"))
    with killed_after(84):
        train(on_scratch, run, make_env)
    with pytest.raises(UsageError, match="replay is gone"):
        train(config(), run, make_env)
    os.rename(run / "checkpoints", tmp_path / "checkpoints")
    with pytest.raises(UsageError, match="checkpoints of this run are gone"):
        train(on_scratch, run, make_env)
    shutil.rmtree(run / "checkpoints")
    os.rename(tmp_path / "checkpoints", run / "checkpoints")
    capsys.readouterr()
    assert train(on_scratch, run, make_env)["finished"]
    assert "is that of the last attempt" in capsys.readouterr()[0]
