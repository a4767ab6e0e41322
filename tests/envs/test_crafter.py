"""Tests of Crafter: seeds that hold in every process, ends of episodes, exact states."""

import numpy as np
import pytest
from env_copies import check_restore, digest_elsewhere, outcomes, random_actions

from dreamer_jax.envs import make_env

crafter = pytest.importorskip("crafter")

from dreamer_jax.envs.crafter import OrderedSet  # noqa: E402

NOOP, COLLECT_SAPLING = 0, "collect_sapling"
NIGHT = 300  # steps until night falls


def test_the_first_observation_is_the_packages():
    obs, _ = make_env("crafter", 3).reset()
    np.testing.assert_array_equal(obs["image"], crafter.Env(seed=3).reset())


def test_spaces():
    env = make_env("crafter", 0)
    assert env.observation_space["image"].shape == (64, 64, 3)
    assert env.action_space.n == 17


def test_a_seed_gives_the_same_episodes():
    env = make_env("crafter", 5)
    actions = random_actions(env, 20)

    def run(env, **seed):
        env.reset(**seed)
        return outcomes(env, actions)

    first, second = run(env), run(env)
    assert first != second
    assert [run(env, seed=5), run(env)] == [first, second]
    assert run(env, seed=6) != first


@pytest.mark.slow
def test_a_seeds_episodes_are_the_same_in_every_process():
    """With the package's plain sets these episodes differ before step 300."""
    assert digest_elsewhere("crafter", 400, ballast=1) == digest_elsewhere("crafter", 400, 300_001)


def test_chunks_are_ordered_sets_of_all_objects():
    env = make_env("crafter", 0)
    env.reset()
    outcomes(env, random_actions(env, 50))
    world = env.unwrapped._env._world
    assert all(type(items) is OrderedSet for items in world.chunks.values())
    held = [item for items in world.chunks.values() for item in items]
    assert set(map(id, held)) == set(map(id, world.objects)) and len(held) > 5
    assert all(item in world.chunks[world.chunk_key(item.pos)] for item in held)


@pytest.mark.parametrize("steps", [30, pytest.param(500, marks=pytest.mark.slow)])
def test_restored_environment_goes_on_identically(steps):
    check_restore("crafter", steps)


def test_death_is_terminal_and_the_time_limit_is_not():
    env = make_env("crafter", 0, time_limit=3)
    env.reset()
    assert [env.step(NOOP)[2:4] for _ in range(3)] == [(False, False)] * 2 + [(False, True)]
    env.reset()
    env.unwrapped._env._player.health = 0
    _, reward, terminated, truncated, _ = env.step(NOOP)
    assert (terminated, truncated) == (True, False)
    assert reward == pytest.approx(-0.9)


@pytest.mark.parametrize(("task", "expected"), [("crafter", 1.0), ("crafter:no_reward", 0.0)])
def test_an_achievement_is_rewarded_once(task, expected):
    env = make_env(task, 0)
    env.reset()
    player = env.unwrapped._env._player
    rewards = []
    for _ in range(2):
        player.achievements[COLLECT_SAPLING] += 1
        rewards.append(env.step(NOOP)[1])
    assert rewards == [expected, 0.0]


def test_an_unknown_variant_names_the_choices():
    with pytest.raises(ValueError, match="variant of the task 'crafter' is 'noreward'.*no_reward"):
        make_env("crafter:noreward", 0)


def test_rendering_at_night_changes_nothing():
    seen, unseen = make_env("crafter", 0), make_env("crafter", 0)
    for env in (seen, unseen):
        env.reset()
        env.unwrapped._env._step = NIGHT
    actions = random_actions(seen, 20)
    for action in actions:
        assert seen.render().shape == (256, 256, 3)
        assert outcomes(seen, [action]) == outcomes(unseen, [action])
