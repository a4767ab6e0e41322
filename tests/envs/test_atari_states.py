"""Tests of the states and seeds from which an Atari game continues bit for bit."""

import functools

import numpy as np
import pytest
from env_doubles import LONG, fake_game

from dreamer_jax.envs import make_env
from dreamer_jax.envs.atari import Atari, games
from dreamer_jax.envs.vector.snapshot import restore, save_parts


def play(env, actions):
    seen = []
    for action in actions:
        obs, reward, terminated, truncated, _ = env.step(action)
        seen.append((obs["image"].tobytes(), reward, terminated, truncated))
        if terminated or truncated:
            seen.append(env.reset()[0]["image"].tobytes())
    return seen


def check_restore(game, steps, **settings):
    make = functools.partial(make_env, f"atari:{game}", action_repeat=4, **settings)
    env = make(0)
    actions = np.random.default_rng(0).integers(env.action_space.n, size=2 * steps)
    env.reset()
    for played in (actions[:0], actions[:steps]):
        play(env, played)
        data = save_parts(env)
        expected = play(env, actions[steps:])
        assert play(restore(make(1), data), actions[steps:]) == expected
        assert play(restore(env, data), actions[steps:]) == expected


@pytest.mark.parametrize("game", ["pong", "breakout"])
def test_restored_game_continues_bit_for_bit(game):
    check_restore(game, steps=200)


def test_restored_game_knows_whether_it_has_begun():
    """Q*bert depends on whether the emulator has acted since its reset, which states omit."""
    check_restore("qbert", steps=20, noops=0)


@pytest.mark.slow
@pytest.mark.parametrize("noops", [0, 30])
@pytest.mark.parametrize("game", games())
def test_every_game_steps_and_restores(game, noops):
    check_restore(game, steps=20, noops=noops)


def test_restored_game_has_its_last_frame_and_its_clock():
    screens = np.array([0, 9, 9, 70, 60, 50], np.uint8)
    env, other = fake_game(screens, noops=0), fake_game(screens, noops=0)
    env.reset(seed=0)
    env.step(0)
    other.set_state(env.get_state())
    obs, _, terminated, _, _ = other.step(0)
    assert terminated and (obs == 60).all()

    env, other = (fake_game(LONG, noops=0, time_limit=8) for _ in range(2))
    env.reset(seed=0)
    env.step(0)
    other.set_state(env.get_state())
    assert other.step(0)[3]


def test_a_state_of_another_game_is_an_error():
    pong, breakout = Atari("pong"), Atari("breakout")
    pong.reset(seed=0)
    with pytest.raises(ValueError, match="a state of 'pong' cannot be restored in 'breakout'"):
        breakout.set_state(pong.get_state())


def test_a_seed_gives_the_same_game_again():
    """Assault remembers its last game across a reset unless it is loaded again."""
    actions = np.random.default_rng(0).integers(18, size=50)
    env = make_env("atari:assault", 3, action_repeat=4, sticky=0.9)

    def run(environment, **seed):
        return [environment.reset(**seed)[0]["image"].tobytes(), *play(environment, actions)]

    first = run(env)
    assert run(env, seed=3) == first
    assert run(env, seed=4) != first
    assert run(env, seed=3) == first
    assert run(make_env("atari:assault", 3, action_repeat=4, sticky=0.9)) == first
