"""Small replays, and random episodes kept in Python lists beside them, for the replay's tests."""

import numpy as np

from dreamer_jax.replay.replay import Replay

SPEC = {
    "image": ((2, 3, 1), np.uint8),
    "action": ((2,), np.float32),
    "reward": ((), np.float32),
    "is_first": ((), bool),
    "is_last": ((), bool),
    "is_terminal": ((), bool),
}


def make_replay(**changes):
    arguments = dict(
        spec=SPEC,
        seeds=[7],
        num_envs=1,
        capacity=4,
        slack=2,
        batch=3,
        length=2,
        sampling="time",
        directory=None,
    )
    return Replay(**{**arguments, **changes})


def make_step(reward, is_first, is_last):
    reward = np.asarray(reward, np.float32)
    return {
        "image": np.broadcast_to(
            (reward % 251)[..., None, None, None], (*reward.shape, 2, 3, 1)
        ).astype(np.uint8),
        "action": np.stack([reward, -reward], axis=-1),
        "reward": reward,
        "is_first": np.asarray(is_first, bool),
        "is_last": np.asarray(is_last, bool),
        "is_terminal": np.asarray(is_last, bool),
    }


def add_one(replay, reward, is_first=False, is_last=False):
    replay.add(make_step([[reward]], [[is_first]], [[is_last]]), np.ones((1, 1), bool))


class Streams:
    """Random episodes in [M, E] streams; `records[m][e]` lists (reward, is_first, is_last)."""

    def __init__(self, members, envs, seed, *, end=0.15, masked=0.8):
        self.rng = np.random.default_rng(seed)
        self.shape, self.end, self.masked = (members, envs), end, masked
        self.records = [[[] for _ in range(envs)] for _ in range(members)]

    def step(self):
        mask = self.rng.random(self.shape) < self.masked
        reward = self.rng.integers(0, 2**20, self.shape)
        is_first = self.rng.random(self.shape) < 0.5
        is_last = self.rng.random(self.shape) < self.end
        for m, e in zip(*np.nonzero(mask), strict=True):
            past = self.records[m][e]
            is_first[m, e] = not past or past[-1][2]
            past.append((reward[m, e], is_first[m, e], is_last[m, e]))
        return make_step(reward, is_first, is_last), mask

    def close(self):
        mask = self.rng.random(self.shape) < 0.5
        for m, e in zip(*np.nonzero(mask), strict=True):
            if self.records[m][e]:
                self.records[m][e][-1] = (*self.records[m][e][-1][:2], True)
        return mask


def fill(replay, streams, steps):
    for _ in range(steps):
        replay.add(*streams.step())
        replay.pin()


def assert_same(left, right):
    assert left.keys() == right.keys()
    for key in left:
        np.testing.assert_array_equal(left[key], right[key], err_msg=key)
