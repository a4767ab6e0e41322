"""Tests of MiniGrid: pictures of the view, the direction, and no mission."""

import functools

import gymnasium
import numpy as np
import pytest
from env_copies import check_restore

from dreamer_jax.envs import make_env
from dreamer_jax.envs.vector.trial import find_exact

pytest.importorskip("minigrid")

EMPTY = "minigrid:MiniGrid-Empty-5x5-v0"
LEFT, RIGHT, FORWARD = range(3)


def test_observation_is_a_picture_and_a_direction():
    env = make_env(EMPTY, 0)
    shapes = {key: box.shape for key, box in env.observation_space.items()}
    assert shapes == {"image": (64, 64, 3), "direction": (4,)}
    assert env.action_space.n == 7
    obs, _ = env.reset()
    assert obs["direction"].tolist() == [1.0, 0.0, 0.0, 0.0]
    turned = env.step(RIGHT)[0]
    assert turned["direction"].tolist() == [0.0, 1.0, 0.0, 0.0]
    assert (turned["image"] != obs["image"]).any()


def test_the_picture_is_what_the_agent_sees_in_colour():
    """The green goal is visible ahead to the right, and invisible behind."""
    env = make_env(EMPTY, 0)
    ahead = env.reset()[0]["image"].astype(int)
    for _ in range(2):
        behind = env.step(RIGHT)[0]["image"].astype(int)

    def green(image):
        return (image[..., 1] - image[..., [0, 2]].max(-1) > 100).mean()

    assert green(ahead) > 0.01
    assert green(behind) == 0.0


def test_the_goal_is_terminal_with_the_packages_reward():
    env = make_env(EMPTY, 0)
    env.reset()
    for action in (FORWARD, FORWARD, RIGHT, FORWARD, FORWARD):
        _, reward, terminated, truncated, _ = env.step(action)
    assert (terminated, truncated) == (True, False)
    assert reward == pytest.approx(1.0 - 0.9 * 5 / 100)


@pytest.mark.parametrize(("limit", "frames"), [(0, 100), (5, 5)])
def test_episodes_are_truncated(limit, frames):
    env = make_env(EMPTY, 0, time_limit=limit)
    env.reset()
    flags = [env.step(LEFT)[2:4] for _ in range(frames)]
    assert flags == [(False, False)] * (frames - 1) + [(False, True)]


def test_an_unknown_id_names_the_nearest():
    with pytest.raises(ValueError, match="MiniGrid environment.*nearest are.*MiniGrid-Empty-5x5"):
        make_env("minigrid:MiniGrid-Empty-5x5", 0)


def test_actions_are_repeated():
    env = make_env(EMPTY, 0, action_repeat=2)
    env.reset()
    assert np.argmax(env.step(RIGHT)[0]["direction"]) == 2


@pytest.mark.parametrize("name", ["MiniGrid-DoorKey-8x8-v0", "MiniGrid-Dynamic-Obstacles-6x6-v0"])
def test_restored_environment_goes_on_identically(name):
    make = functools.partial(make_env, f"minigrid:{name}", 0)
    assert find_exact(make(), make)
    check_restore(f"minigrid:{name}", 60)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.* is out of date:DeprecationWarning")
def test_every_environment_can_be_saved_exactly():
    names = [name for name in gymnasium.registry if name.startswith(("MiniGrid-", "BabyAI-"))]
    # These generate their rooms with packages that minigrid does not install.
    names = [name for name in names if not name.startswith("MiniGrid-WFC")]
    assert len(names) > 100
    for name in names:
        check_restore(f"minigrid:{name}", 23)
