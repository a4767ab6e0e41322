"""Copies of members' replays out of directories that are still being written to."""

import json

import numpy as np
import pytest
from replay_streams import SPEC, Streams, assert_same, fill, make_replay

from dreamer_jax.errors import UsageError
from dreamer_jax.replay.copy import check_alike, copy_members, open_member

RECORD = 6 + 8 + 4 + 3  # bytes of image, action, reward and flags


def grow(directory, seeds, *, slack=6):
    return make_replay(
        directory=directory, seeds=seeds, num_envs=2, capacity=20, slack=slack, batch=4, length=3
    )


def in_flight(indices):
    return [
        {"env": env, "start": start}
        for env, start in zip(indices.env.tolist(), indices.start.tolist(), strict=True)
    ]


@pytest.mark.parametrize("steps", [4, 35])
def test_members_of_two_replays_make_a_third(steps, tmp_path):
    """10 of 16 slots are live; the originals keep writing after their checkpoint."""
    streams = Streams(3, 2, 0, masked=1.0)
    originals = [grow(tmp_path / "a", [3, 5]), grow(tmp_path / "b", [7])]
    rows = [slice(0, 2), slice(2, 3)]

    def add(count):
        for _ in range(count):
            step, mask = streams.step()
            for replay, part in zip(originals, rows, strict=True):
                replay.add({key: value[part] for key, value in step.items()}, mask[part])

    for _ in range(steps):
        add(1)
        for replay in originals:
            replay.pin()
    drawn = [in_flight(replay.draw()) for replay in originals]
    states = json.loads(json.dumps([replay.state() for replay in originals]))
    members = [
        open_member(tmp_path / name / str(m), states[replay][m], drawn[replay][m])
        for name, replay, m in (("b", 1, 0), ("a", 0, 1), ("a", 0, 0))
    ]
    add(3)
    for replay in originals:
        replay.flush()
    check_alike(members)
    copy_members(members, tmp_path / "new")
    assert sum(member.nbytes for member in members) == 3 * 2 * min(steps, 16) * RECORD
    copied = grow(tmp_path / "new", [7, 5, 3])
    copied.restore([states[1][0], states[0][1], states[0][0]])
    assert copied.written.tolist() == [[steps, steps]] * 3
    for replay, state in zip(originals, states, strict=True):
        replay.restore(state)
    for _ in range(3):
        batch = copied.gather(copied.draw())
        first, second = (replay.gather(replay.draw()) for replay in originals)
        assert_same(batch, {key: np.concatenate([second[key], first[key][::-1]]) for key in batch})


def test_slots_that_were_not_written_take_no_space(tmp_path):
    replay = grow(tmp_path / "a", [3, 5], slack=10**6)
    fill(replay, Streams(2, 2, 0), 4)
    replay.flush()
    copy_members([open_member(tmp_path / "a" / "1", replay.state()[1], None)], tmp_path / "b")
    file = tmp_path / "b" / "0" / "action.bin"
    assert file.stat().st_size == 2 * (10**6 + 10) * 8
    assert file.stat().st_blocks * 512 < 10**6


@pytest.mark.parametrize("drawn", [False, True])
def test_records_overwritten_meanwhile_are_noticed(drawn, tmp_path):
    replay, streams = grow(tmp_path / "a", [3, 5]), Streams(2, 2, 0, masked=1.0)
    fill(replay, streams, 12 if drawn else 10)
    # Record 0 is live at 10 records; at 12 only the batch in flight needs it.
    prefetch = {"env": [1], "start": [0]} if drawn else None
    member = open_member(tmp_path / "a" / "1", replay.state()[1], prefetch)
    fill(replay, streams, 16 - int(replay.written.max()))
    copy_members([member], tmp_path / "b")
    fill(replay, streams, 1)
    with pytest.raises(UsageError, match="moved on too far"):
        copy_members([member], tmp_path / "c")


def test_files_that_are_missing_or_do_not_match(tmp_path):
    replay = grow(tmp_path / "a", [3, 5])
    other = make_replay(directory=tmp_path / "b", spec={**SPEC, "action": ((3,), np.float32)})
    members = [
        open_member(tmp_path / name / "0", state[0], None)
        for name, state in (("a", replay.state()), ("b", other.state()))
    ]
    with pytest.raises(UsageError, match=r"different layouts: envs: 2 -> 1; .*entry 'action'"):
        check_alike(members)
    layout = tmp_path / "a" / "1" / "layout.json"
    text = layout.read_text()
    for wrong in ("", "[]", "{}", text[:-20], text.replace('"envs"', '"env"')):
        layout.write_text(wrong)
        with pytest.raises(UsageError, match="layout.json is damaged: "):
            open_member(tmp_path / "a" / "1", replay.state()[1], None)
    layout.write_text(text)
    for name in ("reward.bin", "high_water.i64", "layout.json"):
        (tmp_path / "a" / "1" / name).unlink()
        with pytest.raises(UsageError, match=f"{name} is missing"):
            open_member(tmp_path / "a" / "1", replay.state()[1], None)


def test_a_replay_of_an_earlier_version_is_refused(tmp_path):
    """All members were stacked in the same files there."""
    (tmp_path / "layout.json").write_text('{"members": 1}')
    with pytest.raises(UsageError, match="made by an earlier version"):
        make_replay(directory=tmp_path)
    with pytest.raises(UsageError, match="made by an earlier version"):
        open_member(tmp_path / "0", make_replay().state()[0], None)
    assert [path.name for path in tmp_path.iterdir()] == ["layout.json"]
