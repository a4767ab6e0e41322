"""Host data, metrics rows and replay streams of members, gathered from several runs."""

import numpy as np
import pytest
from conftest import make_tiny_config

from dreamer_jax import config as config_lib
from dreamer_jax.config import sweep
from dreamer_jax.errors import UsageError
from dreamer_jax.replay.copy import copy_streams, open_streams
from dreamer_jax.replay.replay import Replay
from dreamer_jax.run import member_data


def host_data(start, members, **changes):
    """Host data of `members` members of 2 environments, each entry telling whose it is."""
    per_member = [start + m for m in range(members)]
    per_row = [10 * m + e for m in per_member for e in range(2)]
    return {
        "env_step": 4, "update": 2, "due": [],
        "summary": [{"member": m, "seed": s} for m, s in enumerate(per_member)],
        "replay": dict.fromkeys(("written", "open_start", "generators"), per_member),
        "prefetch": dict.fromkeys(("env", "start"), per_member),
        "driver": {"stats": per_member}
        | dict.fromkeys(("is_first", "returns", "lengths"), per_row),
        "rows": per_row,
        "records": {"sums": {"a": per_member}, "offset": 99, "pending": ["x"]}
        | dict.fromkeys(("frozen", "faults"), per_member),
    } | changes  # fmt: skip


def test_gather_host():
    gathered = member_data.gather_host([(host_data(3, 3), [2, 0]), (host_data(8, 1), [0])], 2)
    assert gathered["replay"] == dict.fromkeys(("written", "open_start", "generators"), [5, 3, 8])
    assert gathered["prefetch"] == {"env": [5, 3, 8], "start": [5, 3, 8]}
    assert gathered["rows"] == [50, 51, 30, 31, 80, 81]
    assert gathered["driver"]["lengths"] == [50, 51, 30, 31, 80, 81]
    assert gathered["driver"]["stats"] == gathered["records"]["frozen"] == [5, 3, 8]
    assert gathered["records"]["sums"] == {"a": [5, 3, 8]}
    assert (gathered["records"]["offset"], gathered["records"]["pending"]) == (0, [])
    assert [(r["member"], r["seed"]) for r in gathered["summary"]] == [(0, 5), (1, 3), (2, 8)]


def test_gather_host_before_the_first_update_and_right_after_a_log_line():
    early = host_data(0, 2, prefetch=None, summary=None)
    logged = host_data(5, 1, prefetch=None)
    logged["records"]["sums"] = None
    gathered = member_data.gather_host([(early, [1]), (logged, [0])], 2)
    assert gathered["prefetch"] is None and gathered["summary"] is None
    assert gathered["records"]["sums"] == {"a": [1, 0.0]}
    assert member_data.gather_host([(logged, [0])], 2)["records"]["sums"] is None


def test_gather_rows():
    def row(member, env_step, **values):
        return {"member": member, "env_step": env_step} | values

    first = [row(0, 5, a=1), row(1, 5, a=2), row(0, 5, eval_return=3), row(1, 5, eval_return=4)]
    second = [row(0, 5, eval_return=5), row(0, 9, a=6)]
    assert member_data.gather_rows([(first, [1, 0]), (second, [0])]) == [
        row(0, 5, a=2), row(1, 5, a=1),
        row(0, 5, eval_return=4), row(1, 5, eval_return=3), row(2, 5, eval_return=5),
        row(2, 9, a=6),
    ]  # fmt: skip
    assert member_data.gather_rows([(first, [1])]) == [row(0, 5, a=2), row(0, 5, eval_return=4)]


def test_workers_are_no_more_than_environments():
    config = make_tiny_config(seeds=3)
    config.env.num_envs = 2
    config.env.workers = 5
    fewer = member_data.gather_config([(config, [1, 2])])
    assert sweep.member_seeds(fewer) == [1, 2]
    assert fewer.env.workers == 4
    config_lib.validate(fewer)


SPEC = {"reward": ((), "float32"), "x": ((2,), "int32")} | {
    name: ((), "bool") for name in ("is_first", "is_last", "is_terminal")
}


def make_replay(directory, seeds, slack=6):
    sizes = {"num_envs": 2, "capacity": 20, "slack": slack, "batch": 4, "length": 3}
    return Replay(spec=SPEC, seeds=seeds, sampling="time", directory=directory, **sizes)


def add_steps(replay, seeds, start, stop):
    """Record t of seed s and environment e holds s, e and t; episodes never end."""
    for t in range(start, stop):
        member, env = np.meshgrid(seeds, [0, 1], indexing="ij")
        step = {"reward": np.full(member.shape, t, np.float32)}
        step["x"] = np.stack([member, env], -1).astype(np.int32)
        step |= {name: np.full(member.shape, False) for name in ("is_last", "is_terminal")}
        replay.add(step | {"is_first": np.full(member.shape, t == 0)}, np.full(member.shape, True))
        if t % 5 == 4 and t < 35:
            replay.mark_checkpoint()


@pytest.mark.parametrize("steps", [4, 35])
def test_streams_of_part_and_of_all_of_a_ring(tmp_path, steps):
    """10 of 16 slots are live; the original goes on writing after its checkpoint."""
    replay = make_replay(tmp_path / "a", [3, 5, 7])
    add_steps(replay, [3, 5, 7], 0, steps)
    drawn = replay.draw()
    state = replay.state()
    streams = [
        open_streams(tmp_path / "a", members, state, {"env": drawn.env, "start": drawn.start})
        for members in ([2, 1], [0])
    ]
    add_steps(replay, [3, 5, 7], steps, steps + 3)
    replay.flush()
    copy_streams(streams, tmp_path / "b")
    records = min(steps, 16)
    assert sum(s.nbytes for s in streams) == 3 * 2 * records * (4 + 8 + 3)
    copied = make_replay(tmp_path / "b", [7, 5, 3])
    copied.restore({name: values[::-1] for name, values in state.items()})
    assert copied.written.tolist() == [[steps, steps]] * 3
    replay.restore(state)
    for _ in range(3):
        old, new = replay.draw(), copied.draw()
        np.testing.assert_array_equal(old.start[::-1], new.start)
        old, new = replay.gather(old), copied.gather(new)
        for key, value in old.items():
            np.testing.assert_array_equal(value[::-1], new[key])


def test_what_was_not_written_takes_no_space(tmp_path):
    replay = make_replay(tmp_path / "a", [3, 5], slack=10**6)
    add_steps(replay, [3, 5], 0, 4)
    replay.flush()
    copy_streams([open_streams(tmp_path / "a", [1], replay.state(), None)], tmp_path / "b")
    file = tmp_path / "b" / "x.bin"
    assert file.stat().st_size == 2 * (10**6 + 10) * 8
    assert file.stat().st_blocks * 512 < 10**6


@pytest.mark.parametrize("drawn", [False, True])
def test_records_that_are_overwritten_meanwhile(tmp_path, drawn):
    replay = make_replay(tmp_path / "a", [3, 5])
    add_steps(replay, [3, 5], 0, 10)
    prefetch = {"env": [[0], [1]], "start": [[0], [0]]} if drawn else None
    state = replay.state()
    if drawn:  # one record more, and the batch drawn before is not there any longer
        add_steps(replay, [3, 5], 10, 12)
        state = replay.state()
    streams = open_streams(tmp_path / "a", [1], state, prefetch)
    add_steps(replay, [3, 5], 12 if drawn else 10, 17)
    replay.flush()
    with pytest.raises(UsageError, match="gone on too far"):
        copy_streams([streams], tmp_path / "b")
