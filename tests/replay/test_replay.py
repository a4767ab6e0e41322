"""Replay contents, eviction and draws, against lists walked in Python."""

import collections

import numpy as np
import pytest
import scipy.stats
from replay_streams import Streams, add_one, assert_same, fill, make_replay, make_step

from dreamer_jax.replay.samplers import Indices, find_episodes


def exact_time(streams, capacity, length):
    windows = [
        (e, start)
        for e, records in enumerate(streams)
        for start in range(len(records))
        if start >= len(records) - capacity and start + length <= len(records)
    ]
    return {window: 1 / len(windows) for window in windows}


def whole_episodes(streams, capacity, length):
    """(environment, start, records) of every episode that can be drawn from.

    Those are complete ones, or the live parts of those in progress if there is none.
    """
    episodes, begun = [], []
    for e, records in enumerate(streams):
        start = None
        for t, (_, is_first, is_last) in enumerate(records):
            start = t if is_first else start
            live = start is not None and start >= len(records) - capacity
            if is_last and live and t + 1 - start >= length:
                episodes.append((e, start, t + 1 - start))
            if is_last:
                start = None
        if start is not None:
            start = max(start, len(records) - capacity)
            begun.append((e, start, len(records) - start))
    return episodes or [episode for episode in begun if episode[2] >= length]


def exact_episodes(streams, capacity, length):
    chance, episodes = collections.defaultdict(float), whole_episodes(streams, capacity, length)
    for e, start, total in episodes:
        for u in range(total + 1):
            chance[e, start + min(u, total - length)] += 1 / len(episodes) / (total + 1)
    return chance


def exact_episodes_uniform(streams, capacity, length):
    episodes = whole_episodes(streams, capacity, length)
    return {
        (e, start + offset): 1 / len(episodes) / (total - length + 1)
        for e, start, total in episodes
        for offset in range(total - length + 1)
    }


EXACT = {
    "time": exact_time,
    "episodes": exact_episodes,
    "episodes_uniform": exact_episodes_uniform,
}


def test_tiny_ring_by_hand():
    replay = make_replay(capacity=4, slack=2, length=2, sampling="episodes")
    # record   0 1 2 | 3 4 | 5 6; 6 slots: record 6 takes the place of record 0.
    for t in range(7):
        add_one(replay, t, is_first=t in (0, 3, 5), is_last=t in (2, 4, 6))
        assert replay.remaining_slack == 1
        replay.pin()
    assert {start for _ in range(20) for start in replay.draw().start.ravel()} == {3, 5}
    indices = Indices(env=np.zeros((1, 3), np.int64), start=np.array([[3, 4, 5]]))
    batch = replay.gather(indices)
    np.testing.assert_array_equal(batch["reward"], [[[3, 4], [4, 5], [5, 6]]])
    np.testing.assert_array_equal(batch["action"][0, :, 0], [[3, -3], [4, -4], [5, -5]])
    np.testing.assert_array_equal(batch["image"][0, 2, :, 1, 2, 0], [5, 6])
    np.testing.assert_array_equal(batch["is_first"], [[[1, 0], [1, 1], [1, 0]]])
    np.testing.assert_array_equal(batch["is_last"], [[[0, 1], [1, 0], [0, 1]]])
    batch["reward"][:] = -1
    batch = replay.gather(Indices(env=np.zeros((1, 1), np.int64), start=np.array([[4]])))
    np.testing.assert_array_equal(batch["reward"], [[[4, 5]]])
    again = replay.gather(Indices(env=np.zeros((1, 1), np.int64), start=np.array([[3]])))
    np.testing.assert_array_equal(again["is_first"], [[[1, 0]]])


def test_what_can_be_drawn_in_both_modes():
    episodes, window = make_replay(sampling="episodes"), make_replay(sampling="time")
    ready = []
    for t in range(4):
        for replay in (episodes, window):
            add_one(replay, t, is_first=t in (0, 1), is_last=t in (0, 3))
            replay.pin()
        ready.append((can_draw(episodes), can_draw(window)))
    # The first episode has one record, shorter than a sequence; the second is in progress.
    assert ready == [(False, False), (False, True), (True, True), (True, True)]
    assert (episodes.never_drawn, window.never_drawn) == (1, 0)
    for t in range(4, 9):
        # The episode in progress is drawn from once no complete one is live, from t = 6.
        starts = {int(start) for _ in range(20) for start in episodes.draw().start.ravel()}
        assert starts == {4: {1, 2}, 5: {1, 2}, 6: {4}, 7: {4, 5}, 8: {4, 5, 6}}[t]
        add_one(episodes, t, is_first=t == 4)
        episodes.pin()


def can_draw(replay):
    return bool(replay.sampleable.all())


@pytest.mark.parametrize("sampling", ["episodes", "time"])
def test_a_member_without_sequences_takes_nothing_from_the_others(sampling):
    arguments = dict(capacity=9, length=3, sampling=sampling)
    two, alone = make_replay(seeds=[5, 7], **arguments), make_replay(seeds=[7], **arguments)
    for t in range(4):
        two.add(make_step([[t], [t]], [[t == 0]] * 2, [[t == 3]] * 2), np.array([[t < 2], [True]]))
        two.pin()
        add_one(alone, t, is_first=t == 0, is_last=t == 3)
        alone.pin()
    assert two.sampleable.tolist() == [False, True]
    indices = two.draw()
    assert indices.empty.tolist() == [True, False]
    batch = two.gather(indices)
    assert np.isnan(batch["reward"][0]).all() and not batch["image"][0].any()
    assert_same({key: value[1:] for key, value in batch.items()}, alone.gather(alone.draw()))


def test_windows_of_another_length_change_no_draw():
    replay, same = (make_replay(capacity=9, length=3, sampling="episodes") for _ in range(2))
    for t in range(12):
        for each in (replay, same):
            add_one(each, t, is_first=t % 6 == 0, is_last=t % 6 == 5)
            each.pin()
    longer = replay.draw_windows([np.random.default_rng(0)], 40, 8)
    assert set(longer.start.ravel().tolist()) == {3, 4}  # of the 9 live records, 3 to 11
    batch = replay.gather(longer, 8, ("reward", "is_first"))
    assert batch.keys() == {"reward", "is_first"}
    np.testing.assert_array_equal(batch["reward"], longer.start[..., None] + np.arange(8))
    borders = [[record == start or record == 6 for record in range(start, start + 8)]
               for start in longer.start[0]]  # fmt: skip
    np.testing.assert_array_equal(batch["is_first"][0], borders)
    too_long = replay.draw_windows([np.random.default_rng(0)], 2, 10)
    assert too_long.empty.all() and np.isnan(replay.gather(too_long, 10)["reward"]).all()
    np.testing.assert_array_equal(replay.draw().start, same.draw().start)


def test_close_open_completes_the_episode():
    replay = make_replay(sampling="episodes")
    for t in range(2):
        add_one(replay, t, is_first=t == 0)
    with pytest.raises(ValueError, match="member 0, environment 0 starts .* close_open"):
        add_one(replay, 2, is_first=True)
    replay.close_open(np.ones((1, 1), bool))
    batch = replay.gather(replay.draw())
    np.testing.assert_array_equal(batch["is_last"], [[[0, 1]] * 3])
    np.testing.assert_array_equal(batch["is_terminal"], np.zeros((1, 3, 2)))
    with pytest.raises(ValueError, match="continues without is_first"):
        add_one(replay, 2)


@pytest.mark.parametrize("sampling", EXACT)
@pytest.mark.parametrize("seed", [0, 1])
def test_wrapped_contents_and_support_match_lists(sampling, seed):
    members, envs, length, capacity = 2, 3, 4, 30
    streams = Streams(members, envs, seed)
    replay = make_replay(
        seeds=[1, 2],
        num_envs=envs,
        capacity=capacity * envs + 2,
        slack=5,
        batch=20,
        length=length,
        sampling=sampling,
    )
    compared = 0
    for t in range(400):
        fill(replay, streams, 1)
        if t % 50 == 49:
            replay.close_open(streams.close())
        exact = [EXACT[sampling](past, capacity, length) for past in streams.records]
        assert replay.sampleable.tolist() == [bool(chance) for chance in exact]
        if not can_draw(replay):
            continue
        indices = replay.draw()
        batch = replay.gather(indices)
        compared += 1
        sequences = []
        for m, b in np.ndindex(members, 20):
            e, start = int(indices.env[m, b]), int(indices.start[m, b])
            assert (e, start) in exact[m]
            sequences.append(streams.records[m][e][start : start + length])
        expected = np.array(sequences, np.int64).reshape(members, 20, length, 3)
        reward, is_first, is_last = np.moveaxis(expected, -1, 0)
        np.testing.assert_array_equal(batch["reward"], reward)
        np.testing.assert_array_equal(batch["action"][..., 1], -reward)
        np.testing.assert_array_equal(batch["image"][..., 1, 2, 0], reward % 251)
        assert batch["is_first"][:, :, 0].all()
        np.testing.assert_array_equal(batch["is_first"][:, :, 1:], is_first[:, :, 1:])
        np.testing.assert_array_equal(batch["is_last"], is_last)
    assert compared > 300 and min(len(past) for past in streams.records[0]) > 8 * capacity


@pytest.mark.parametrize("sampling", EXACT)
def test_draws_have_the_exact_distribution(sampling):
    capacity, length = 25, 3
    streams = Streams(1, 2, 4, end=0.2)
    arguments = dict(num_envs=2, capacity=2 * capacity, length=length, sampling=sampling)
    replay = make_replay(batch=40_000, **arguments)
    fill(replay, streams, 90)
    exact = EXACT[sampling](streams.records[0], capacity, length)
    indices = replay.draw()
    pairs = zip(indices.env[0].tolist(), indices.start[0].tolist(), strict=True)
    counts = collections.Counter(pairs)
    assert len(exact) > 10 and counts.keys() <= exact.keys()
    observed = [counts[choice] for choice in exact]
    expected = [40_000 * chance for chance in exact.values()]
    assert scipy.stats.chisquare(observed, expected).pvalue > 1e-4


def test_episode_ends_are_favoured():
    replay = make_replay(capacity=10, slack=10, batch=30_000, length=4, sampling="episodes")
    for t in range(10):
        add_one(replay, t, is_first=t == 0, is_last=t == 9)
    start = replay.draw().start
    # u is uniform on 0..10, starts on 0..6: 5 of the 11 values give the last start.
    shares = np.bincount(start[0], minlength=7) / 30_000
    np.testing.assert_allclose(shares, [1 / 11] * 6 + [5 / 11], atol=0.01)


def test_member_alone_equals_member_among_three():
    streams = Streams(3, 2, 0)
    arguments = dict(num_envs=2, capacity=60, length=3, sampling="episodes")
    three, alone = make_replay(seeds=[5, 7, 9], **arguments), make_replay(seeds=[7], **arguments)
    drawn = 0
    for _ in range(150):
        step, mask = streams.step()
        three.add(step, mask)
        alone.add({key: value[1:2] for key, value in step.items()}, mask[1:2])
        three.pin()
        alone.pin()
        if can_draw(three):
            drawn += 1
            batch = three.gather(three.draw())
            assert_same(
                {key: value[1:2] for key, value in batch.items()}, alone.gather(alone.draw())
            )
    assert drawn > 50


def test_find_episodes_by_hand():
    # The first episode began before these records, the last one goes on after them.
    records = np.arange(10, 18)
    is_first = np.array([0, 0, 1, 0, 0, 1, 1, 0], bool)
    is_last = np.array([0, 1, 0, 0, 1, 1, 0, 0], bool)
    start, stop = find_episodes(records, is_first, is_last)
    assert (start.tolist(), stop.tolist()) == ([12, 15], [15, 16])
