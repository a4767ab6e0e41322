"""The replay on a device, against the same lists walked in Python as the host's replay."""

import collections
from functools import partial

import jax
import numpy as np
import pytest
import scipy.stats
from replay_streams import SPEC, Streams
from test_replay import EXACT

from dreamer_jax.replay import device
from dreamer_jax.replay.layout import make_layout

# One of them in every test run.
SAMPLINGS = [
    "episodes",
    *(pytest.param(x, marks=pytest.mark.slow) for x in EXACT if x != "episodes"),
]


def make_replay(members, envs, capacity, length):
    """An empty replay, and compiled functions to add to it and to draw and gather from it."""
    layout = make_layout(spec=SPEC, num_envs=envs, capacity=capacity, slack=1, length=length)
    replay = device.init_replay(layout, members, length)
    return replay, jax.jit(partial(device.add, length=length))


def compiled_batch(length, batch, sampling):
    def draw_and_gather(replay, keys):
        draws = device.draw(replay, keys, sampling=sampling, batch=batch, length=length)
        return draws, device.gather(replay, draws, length)

    return jax.jit(draw_and_gather)


def keys_of(seed, members):
    return jax.random.split(jax.random.key(seed), members)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_wrapped_contents_and_support_match_lists(sampling):
    members, envs, length, capacity = 2, 3, 4, 30
    streams = Streams(members, envs, 0)
    replay, add = make_replay(members, envs, capacity * envs + 2, length)
    sample = compiled_batch(length, 20, sampling)
    close = jax.jit(partial(device.close_open, length=length))
    compared = 0
    for t in range(300):
        replay = add(replay, *streams.step())
        if t % 50 == 49:
            replay = close(replay, streams.close())
        exact = [EXACT[sampling](past, capacity, length) for past in streams.records]
        draws, batch = jax.device_get(sample(replay, keys_of(t, members)))
        assert draws.empty.tolist() == [not chance for chance in exact]
        for m in range(members):
            if not exact[m]:
                assert np.isnan(batch["reward"][m]).all()
                continue
            compared += 1
            pairs = list(zip(draws.env[m].tolist(), draws.start[m].tolist(), strict=True))
            assert set(pairs) <= exact[m].keys()
            found = np.array([streams.records[m][e][s : s + length] for e, s in pairs], np.int64)
            reward, is_first, is_last = np.moveaxis(found, -1, 0)
            np.testing.assert_array_equal(batch["reward"][m], reward)
            np.testing.assert_array_equal(batch["action"][m, ..., 1], -reward)
            np.testing.assert_array_equal(batch["image"][m, ..., 1, 2, 0], reward % 251)
            assert batch["is_first"][m, :, 0].all()
            np.testing.assert_array_equal(batch["is_first"][m, :, 1:], is_first[:, 1:])
            np.testing.assert_array_equal(batch["is_last"][m], is_last)
    assert compared > 500 and min(len(past) for past in streams.records[0]) > 5 * capacity


@pytest.mark.parametrize("steps", [0, 6, 40])
def test_the_written_part_is_all_that_there_is(steps):
    """Before the first record, before the ring is full, and after it has begun anew."""
    streams = Streams(2, 3, 0)
    replay, add = make_replay(2, 3, 60, 4)
    for _ in range(steps):
        replay = add(replay, *streams.step())
    part, slots = device.written_part(replay), min(20, max(1, int(replay.written.max())))
    assert {x.shape[2] for x in part.records.values()} == {slots} and (slots < 20) == (steps < 20)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), replay)
    saved = device.with_slots(like, slots)
    assert jax.tree.map(lambda x: x.shape, part) == jax.tree.map(lambda x: x.shape, saved)
    whole = device.with_empty_slots(part, like)
    jax.tree.map(np.testing.assert_array_equal, whole, replay)


@pytest.mark.parametrize("sampling", SAMPLINGS)
def test_draws_have_the_exact_distribution(sampling):
    capacity, length = 25, 3
    streams = Streams(1, 2, 4, end=0.2)
    replay, add = make_replay(1, 2, 2 * capacity, length)
    for _ in range(90):
        replay = add(replay, *streams.step())
    exact = EXACT[sampling](streams.records[0], capacity, length)
    draws, _ = compiled_batch(length, 40_000, sampling)(replay, keys_of(0, 1))
    pairs = zip(draws.env[0].tolist(), draws.start[0].tolist(), strict=True)
    counts = collections.Counter(pairs)
    assert len(exact) > 10 and counts.keys() <= exact.keys()
    observed = [counts[choice] for choice in exact]
    expected = [40_000 * chance for chance in exact.values()]
    assert scipy.stats.chisquare(observed, expected).pvalue > 1e-4


@pytest.mark.slow
def test_a_member_is_as_alone():
    streams = Streams(3, 2, 0)
    (three, add), (alone, _) = (make_replay(members, 2, 60, 3) for members in (3, 1))
    sample = compiled_batch(3, 5, "episodes")
    for _ in range(60):
        step, mask = streams.step()
        three = add(three, step, mask)
        alone = add(alone, {key: value[1:2] for key, value in step.items()}, mask[1:2])
    keys = keys_of(0, 3)
    batch, expected = sample(three, keys)[1], sample(alone, keys[1:2])[1]
    for key, value in expected.items():
        np.testing.assert_array_equal(batch[key][1:2], value)
