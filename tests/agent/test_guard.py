"""A non-finite member keeps its last finite state, is frozen in time, and harms no other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mock_agents import mock_batch, mock_state, shared_agent, shared_members

from dreamer_jax.agent.guard import is_frozen, keep_finite
from dreamer_jax.types import Update

MEMBERS, BAD, LIMIT = 3, 1, 3


def initial():
    """Return the initial states of all members."""
    agent, hypers, _ = shared_agent()
    assert agent.max_nonfinite == LIMIT
    states = [mock_state(agent, hypers, seed) for seed in range(MEMBERS)]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)


def batches(update, poison):
    """Make a batch [M, B, T, ...]; `poison` puts one NaN reward into the bad member's."""
    rows = [mock_batch("vector", b=4, t=6, seed=10 * m + update) for m in range(MEMBERS)]
    batch = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
    if poison:
        reward = batch.reward.copy()
        reward[BAD, 1, 3] = np.nan
        batch = batch.replace(reward=reward)
    return batch


def train(poisoned, updates=6, state=None):
    """Return states and metrics of all updates; those in `poisoned` get a bad batch."""
    states, history = [initial() if state is None else state], []
    for update in range(updates):
        donated = jax.tree.map(jnp.copy, states[-1])
        step = shared_members(True).train_step
        state, metrics = step(donated, batches(update, update in poisoned))
        states.append(state)
        history.append(jax.device_get(metrics))
    return states, history


def leaves(state, member, names=("params", "slow_critic", "opt_states")):
    trees = [getattr(state, name) for name in names]
    return [np.asarray(leaf[member]) for leaf in jax.tree.leaves(trees)]


def same(a, b, member):
    return all(map(np.array_equal, leaves(a, member), leaves(b, member)))


def test_a_skipped_update_leaves_the_member_as_it_was():
    states, history = train(poisoned={2})
    assert same(states[3], states[2], BAD)
    assert not same(states[4], states[3], BAD) and not same(states[2], states[1], BAD)
    counts = [(int(s.skipped[BAD]), int(s.nonfinite[BAD]), int(s.update[BAD])) for s in states]
    assert counts == [(0, 0, 0), (0, 0, 1), (0, 0, 2), (1, 1, 3), (1, 0, 4), (1, 0, 5), (1, 0, 6)]
    assert [float(m["counted"][BAD]) for m in history] == [1, 1, 0, 1, 1, 1]
    assert history[2]["model_loss"][BAD] == 0 and np.isfinite(history[3]["model_loss"][BAD])
    keys = [jax.random.key_data(state.key)[BAD].tolist() for state in states]
    assert len(set(map(tuple, keys))) == len(keys)


@pytest.mark.parametrize("poisoned", [{2}, {0, 1, 3}, {1, 2, 3, 4, 5}])
def test_the_other_members_are_bit_identical(poisoned):
    clean, clean_history = train(poisoned=set())
    states, history = train(poisoned)
    for other in set(range(MEMBERS)) - {BAD}:
        assert same(states[-1], clean[-1], other)
        for ours, expected in zip(history, clean_history, strict=True):
            for name in expected:
                assert ours[name][other] == expected[name][other], (name, other)
    assert not same(states[-1], clean[-1], BAD)


def test_a_member_is_frozen_after_consecutive_non_finite_updates():
    states, history = train(poisoned={1, 2, 3})
    assert [bool(is_frozen(state, LIMIT)[BAD]) for state in states] == [False] * 4 + [True] * 3
    assert same(states[-1], states[1], BAD)  # though the last two batches were good
    assert int(states[-1].skipped[BAD]) == LIMIT and int(states[-1].update[BAD]) == 6
    assert [float(m["counted"][BAD]) for m in history] == [1, 0, 0, 0, 0, 0]
    assert np.array(is_frozen(states[-1], LIMIT)).tolist() == [False, True, False]


def test_updates_that_are_not_consecutive_do_not_freeze():
    states, _ = train(poisoned={0, 1, 3, 4})
    assert not is_frozen(states[-1], LIMIT)[BAD] and int(states[-1].skipped[BAD]) == 4


def test_damaged_parameters_stay_within_their_member():
    clean, _ = train(poisoned=set())
    first = initial()
    actor = jax.tree.map(lambda leaf: leaf.at[BAD].set(jnp.nan), first.params["actor"])
    states, _ = train(poisoned=set(), state=first.replace(params={**first.params, "actor": actor}))
    assert is_frozen(states[-1], LIMIT)[BAD]
    for other in set(range(MEMBERS)) - {BAD}:
        assert same(states[-1], clean[-1], other)
    # Its world model, which is finite, does not train without the actor.
    model = [state.params["model"] for state in (states[-1], first)]
    for a, b in zip(*map(jax.tree.leaves, model), strict=True):
        assert np.array_equal(a[BAD], b[BAD])


GROUPS = ("model", "actor", "critic")


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("value", ["loss", "grad_norm"])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_every_loss_and_gradient_is_checked(group, value, number):
    old = jax.tree.map(lambda leaf: leaf[0], initial())
    new = old.replace(params=jax.tree.map(lambda leaf: leaf + 1, old.params))
    two = jnp.float32(2)
    good = {name: Update(two, two, {}) for name in GROUPS}
    good["model"] = good["model"].replace(metrics={"kl": two})
    bad = {**good, group: good[group].replace(**{value: jnp.float32(number)})}
    for updates, expected in [(good, new), (bad, old)]:
        state, metrics = keep_finite(old, new, updates, LIMIT)
        leaves = jax.tree.leaves(state.params), jax.tree.leaves(expected.params)
        assert all(map(np.array_equal, *leaves))
        assert metrics["counted"] == metrics["kl"] / 2 == float(expected is new)
        names = {f"{name}_{checked}" for name in GROUPS for checked in ("loss", "grad_norm")}
        assert set(metrics) == {*names, "kl", "counted"}
