"""Tests of the wrappers that normalise every gymnasium environment."""

import cv2
import numpy as np
import pytest
from env_doubles import Scripted
from gymnasium import spaces

from dreamer_jax.envs import make_env
from dreamer_jax.envs.catch import Catch
from dreamer_jax.envs.wrappers import ActionRepeat, SeedFirstReset, adapt


def test_action_repeat_sums_and_stops_at_the_end():
    base = Scripted(spaces.Discrete(2), reward=1.5, length=5)
    env = ActionRepeat(base, repeat=3)
    env.reset()
    assert env.step(1)[1:3] == (4.5, False)
    assert env.step(0)[1:3] == (3.0, True)
    assert base.actions == [1, 1, 1, 0, 0]


@pytest.mark.parametrize("reward", [None, "1", [1.0, 2.0], 1j, np.nan])
def test_rewards_that_are_no_numbers_are_named(reward):
    env = make_env(lambda seed: Scripted(spaces.Discrete(2), obs=0, reward=reward), 0)
    env.reset()
    with pytest.raises(ValueError, match="reward must be a finite number, not"):
        env.step(0)


def test_rewards_in_arrays_of_one_number():
    reward = np.array([1.5], np.float32)
    base = Scripted(spaces.Discrete(2), obs=0, reward=reward)
    env = make_env(lambda seed: base, 0, action_repeat=2)
    env.reset()
    assert env.step(0)[1] == 3.0 and reward == 1.5


def test_dictionary_of_image_and_vector_from_a_function():
    image = np.random.default_rng(0).integers(256, size=(96, 80, 3), dtype=np.uint8)
    grey = image[..., 0]
    space = spaces.Dict(
        {
            "camera": spaces.Dict(
                {
                    "rgb": spaces.Box(0, 255, image.shape, np.uint8),
                    "grey": spaces.Box(0, 255, grey.shape, np.uint8),
                }
            ),
            "speed": spaces.Box(-1e3, 1e3, (2, 2), np.float64),
            "gear": spaces.Discrete(3, start=-1),
            "mission": spaces.Text(20),
            "keys": spaces.MultiBinary(2),
        }
    )
    obs = {
        "camera": {"rgb": image, "grey": grey},
        "speed": np.array([[1.0, 2.0], [3.0, 4.0]]),
        "gear": 0,
        "mission": "go",
        "keys": np.array([1, 0], np.int8),
    }
    env = make_env(lambda seed: Scripted(space, obs=obs), 0, size=32)
    seen, _ = env.reset()
    assert set(seen) == {"camera/rgb", "camera/grey", "speed", "gear", "keys"}
    assert env.observation_space.contains(seen)
    assert seen["camera/grey"].shape == (32, 32, 1)
    np.testing.assert_array_equal(
        seen["camera/rgb"], cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA)
    )
    assert seen["speed"].tolist() == [1, 2, 3, 4]
    assert seen["gear"].tolist() == [0, 1, 0]
    assert seen["keys"].tolist() == [1, 0]


def test_area_resize_is_the_mean_of_the_area():
    image = np.random.default_rng(0).integers(256, size=(32, 32), dtype=np.uint8)
    env = adapt(Scripted(spaces.Box(0, 255, (32, 32), np.uint8), obs=image), size=8)
    means = image.reshape(8, 4, 8, 4).mean((1, 3))
    np.testing.assert_allclose(env.reset()[0]["image"][..., 0], means, atol=0.51)


def test_text_is_left_out_with_one_line():
    space = spaces.Dict({"mission": spaces.Text(5), "x": spaces.Discrete(2)})
    env = adapt(Scripted(space, obs={"mission": "a", "x": 1}), size=64)
    assert env.readings["mission"] == "observation 'mission' is text and is left out"
    assert list(env.reset()[0]) == ["x"]


def test_actions_are_shifted_and_rescaled():
    base = Scripted(spaces.Discrete(2), action_space=spaces.Discrete(3, start=5))
    env = adapt(base, size=64)
    env.reset()
    env.step(0)
    env.step(np.int64(2))
    assert base.actions == [5, 7]

    low, high = np.array([[-2.0, 0.0]]), np.array([[1.1, 10.0]])
    base = Scripted(spaces.Discrete(2), action_space=spaces.Box(low, high, dtype=np.float64))
    env = adapt(base, size=64)
    assert env.action_space == spaces.Box(-1.0, 1.0, (2,), np.float32)
    env.reset()
    for action in ([-1, -1], [1, 1], [0, 0.5], [1 + 1e-7, -1 - 1e-7]):
        env.step(np.array(action, np.float64))
    expected = [low, high, [[-0.45, 7.5]], [[1.1, 0.0]]]
    np.testing.assert_allclose(base.actions, expected, atol=1e-12)
    assert all(env.env.action_space.contains(action) for action in base.actions)


@pytest.mark.parametrize("action", [-1, 3, 1.0, "left", None, [0, 1]])
def test_wrong_index_is_an_error(action):
    env = adapt(Scripted(spaces.Discrete(2), action_space=spaces.Discrete(3)), size=64)
    env.reset()
    with pytest.raises(ValueError, match="is not an integer from 0 to 2"):
        env.step(action)


@pytest.mark.parametrize("action", [[1.001], [np.nan], [0.0, 0.0], 0.0])
def test_wrong_vector_is_an_error(action):
    box = spaces.Box(-2.0, 2.0, (1,), np.float32)
    env = adapt(Scripted(spaces.Discrete(2), action_space=box), size=64)
    env.reset()
    with pytest.raises(ValueError, match=r"is not a vector of 1 numbers in \[-1, 1\]"):
        env.step(action)


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Sequence(spaces.Discrete(2)), "'vector' has no fixed length"),
        (spaces.Dict({"a": spaces.Sequence(spaces.Discrete(2))}), "'a' has no fixed length"),
        (spaces.Dict({"t": spaces.Text(3)}), "one or more distinct entries"),
        (
            spaces.Dict({"a/b": spaces.Discrete(2), "a": spaces.Dict({"b": spaces.Discrete(2)})}),
            "one or more distinct entries",
        ),
    ],
)
def test_unsupported_observation_spaces(space, message):
    with pytest.raises(ValueError, match=message):
        adapt(Scripted(space, obs=()), size=64)


IMAGE = spaces.Box(0, 255, (32, 32, 3), np.uint8)
VECTOR = spaces.Box(-1, 1, (2,), np.float32)


@pytest.mark.parametrize(
    ("space", "obs", "message"),
    [
        (IMAGE, np.zeros((32, 9, 3), np.uint8), r"'image' changed shape from .* to \(32, 9"),
        (IMAGE, np.zeros((32, 32, 3), np.int16), "'image' changed dtype from uint8 to int16"),
        (VECTOR, np.zeros(3, np.float32), r"'vector' changed shape from \(2,\) to \(3,\)"),
        (VECTOR, np.array(["a", "b"]), "'vector' changed dtype from float32 to <U1"),
        (VECTOR, np.array([0, np.nan]), "'vector' is not finite"),
        (VECTOR, np.array([0, 1e300]), "'vector' is not finite"),
        (spaces.Discrete(2), 2, r"'vector' is 2, outside Discrete\(2\)"),
        (spaces.Dict({"a": VECTOR}), {}, r"has the keys \[\] but declares \['a'\]"),
        (spaces.Dict({"a": VECTOR}), np.zeros(2), "is a ndarray, not a dictionary"),
        (
            spaces.Dict({"d": spaces.Dict({"a": VECTOR})}),
            {"d": {"a": np.zeros(2), "b": 0}},
            r"observation 'd' has the keys \['a', 'b'\] but declares \['a'\]",
        ),
    ],
)
def test_broken_observations_are_errors(space, obs, message):
    env = adapt(Scripted(space), size=8)
    env.reset()
    env.env.obs = obs
    with pytest.raises(ValueError, match=message):
        env.step(0)


@pytest.mark.parametrize("reward", [np.nan, np.inf, None, [1.0, 2.0]])
def test_broken_rewards_are_errors(reward):
    env = adapt(Scripted(spaces.Discrete(2), reward=reward), size=8)
    env.reset()
    with pytest.raises(ValueError, match="reward must be a finite number"):
        env.step(0)


def test_seed_first_reset_keeps_an_explicit_seed():
    env = SeedFirstReset(Catch(), seed=1)
    first, _ = env.reset(seed=2)
    np.testing.assert_array_equal(first, Catch().reset(seed=2)[0])
