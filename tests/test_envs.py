"""Catch, the registry, and the wrappers that normalise every gymnasium environment."""

import functools
import itertools
import logging
import subprocess
import sys

import cv2
import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from dreamer_jax.envs import make_env
from dreamer_jax.envs.catch import BALL, COLUMNS, PADDLE, ROWS, Catch
from dreamer_jax.envs.snapshot import has_state, pickles_exactly, restore, snapshot
from dreamer_jax.envs.wrappers import ActionRepeat, SeedFirstReset, adapt


class Scripted(gymnasium.Env):
    """Returns the given observation, reward and flags, and records the actions."""

    def __init__(self, observation_space, action_space=None, obs=None, reward=0.0, length=10**9):
        self.observation_space = observation_space
        self.action_space = spaces.Discrete(2) if action_space is None else action_space
        self.obs = observation_space.sample() if obs is None else obs
        self.reward, self.length, self.time = reward, length, 0
        self.actions = []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self.obs, {}

    def step(self, action):
        self.actions.append(action)
        self.time += 1
        return self.obs, self.reward, self.time >= self.length, False, {}


def rollout(env, actions):
    """What comes out of stepping through `actions` and the resets between, and a last reset."""
    seen = []
    for action in actions:
        obs, *rest, _ = env.step(action)
        seen.append((*obs.values(), *rest))
        if any(rest[1:]):
            seen.append(tuple(env.reset()[0].values()))
    return [*seen, tuple(env.reset()[0].values())]


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


# Catch


def starts():
    return itertools.product(range(COLUMNS), range(COLUMNS))


def test_catch_best_return_is_one_from_every_start():
    env = Catch()
    env.reset(seed=0)
    for ball, paddle in starts():
        env.set_state(env.get_state() | {"row": 0, "ball": ball, "paddle": paddle})
        rewards = []
        terminated = False
        while not terminated:
            state = env.get_state()
            action = 1 + int(np.sign(state["ball"] - state["paddle"]))
            _, reward, terminated, truncated, _ = env.step(action)
            rewards.append(reward)
            assert not truncated
        assert rewards == [0.0] * 6 + [1.0]


def test_catch_random_return_is_minus_three_fifths():
    move = np.zeros((COLUMNS, COLUMNS))  # of the paddle, under uniformly random actions
    for column in range(COLUMNS):
        for step in (-1, 0, 1):
            move[column, np.clip(column + step, 0, COLUMNS - 1)] += 1 / 3
    paddle = np.full(COLUMNS, 1 / COLUMNS) @ np.linalg.matrix_power(move, ROWS - 1)
    caught = (paddle / COLUMNS).sum()
    assert caught - (1 - caught) == pytest.approx(-0.6)

    env, rng, total = Catch(), np.random.default_rng(0), 0.0
    env.reset(seed=0)
    for _ in range(2000):
        env.reset()
        for _ in range(ROWS - 1):
            _, reward, terminated, _, _ = env.step(rng.integers(3))
            total += reward
        assert terminated
    assert total / 2000 == pytest.approx(-0.6, abs=4 * 0.8 / np.sqrt(2000))


def test_catch_draws_what_its_docstring_says():
    env = Catch()
    env.reset(seed=0)
    env.set_state(env.get_state() | {"row": 2, "ball": 1, "paddle": 4})
    image, *_ = env.step(0)
    expected = np.zeros((64, 64, 1), np.uint8)
    expected[24:32, 14:26] = BALL
    expected[56:64, 38:50] = PADDLE
    np.testing.assert_array_equal(image, expected)
    assert env.observation_space.contains(image)
    assert env.render().shape == (256, 256, 3)
    assert env.render()[100, 60].tolist() == [BALL] * 3


def test_catch_starts_cover_all_columns_and_the_end_is_the_end():
    env = Catch()
    seen = set()
    for seed in range(300):
        env.reset(seed=seed)
        state = env.get_state()
        seen.add((state["ball"], state["paddle"]))
    assert seen == set(starts())
    for _ in range(7):
        env.step(1)
    with pytest.raises(ValueError, match="episode is over"):
        env.step(1)


# Registry


def test_make_env_is_deterministic_from_the_first_reset():
    actions = np.random.default_rng(0).integers(3, size=100)

    def run(seed):
        env = make_env("catch", seed)
        return [tuple(env.reset()[0].values()), *rollout(env, actions)]

    assert_same(run(3), run(3))
    with pytest.raises(AssertionError):
        assert_same(run(3), run(4))


def test_make_env_seeds_only_the_first_reset():
    env = make_env("catch", 0)
    firsts = {env.reset()[0]["image"].tobytes() for _ in range(20)}
    assert len(firsts) > 5
    explicit = env.reset(seed=0)[0]["image"]
    np.testing.assert_array_equal(explicit, make_env("catch", 0).reset()[0]["image"])


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("cach", "atari, catch, gym.*Did you mean 'catch'"),
        ("catch:hard", "takes no name"),
        ("gym:CartPol-v1", "Did you mean 'CartPole-v1'"),
        ("gym:", "there are [0-9]+, such as"),
        (lambda seed: seed, "must return a gymnasium.Env, not a int"),
    ],
)
def test_make_env_names_the_choices(task, message):
    with pytest.raises(ValueError, match=message):
        make_env(task, 0)


@pytest.mark.parametrize(
    "number", [{"size": 0}, {"action_repeat": 0}, {"time_limit": -1}, {"seed": -1}]
)
def test_make_env_checks_its_numbers(number):
    with pytest.raises(ValueError, match=f"{next(iter(number))} must be at least"):
        make_env("catch", **({"seed": 0} | number))


@pytest.mark.parametrize(("task", "action"), [("catch", 1), ("gym:CartPole-v1", 0)])
def test_time_limit_is_in_frames_and_truncates(task, action):
    env = make_env(task, 0, action_repeat=2, time_limit=5)
    env.reset()
    flags = [env.step(action)[2:4] for _ in range(3)]
    assert flags == [(False, False), (False, False), (False, True)]


def test_gym_id_with_a_module_to_import_and_rendering():
    env = make_env("gym:gymnasium.envs.classic_control:MountainCarContinuous-v0", 0)
    assert env.action_space == spaces.Box(-1.0, 1.0, (1,), np.float32)
    env.reset()
    assert env.step(np.array([0.5], np.float32))[0]["vector"].shape == (2,)


def test_cartpole_is_adapted():
    env = make_env("gym:CartPole-v1", 0)
    assert env.observation_space == spaces.Dict(
        {"vector": spaces.Box(-np.inf, np.inf, (4,), np.float32)}
    )
    assert env.action_space == spaces.Discrete(2)
    obs, _ = env.reset()
    assert obs["vector"].dtype == np.float32 and obs["vector"].shape == (4,)
    reference, _ = gymnasium.make("CartPole-v1").reset(seed=0)
    np.testing.assert_array_equal(obs["vector"], reference)


def test_the_room_imports_neither_jax_nor_the_emulator():
    code = (
        "import sys, dreamer_jax.envs as e; e.make_env('catch', 0).reset();"
        "assert not {'jax', 'ale_py'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# Wrappers


def test_action_repeat_sums_and_stops_at_the_end():
    base = Scripted(spaces.Discrete(2), reward=1.5, length=5)
    env = ActionRepeat(base, repeat=3)
    env.reset()
    assert env.step(1)[1:3] == (4.5, False)
    assert env.step(0)[1:3] == (3.0, True)
    assert base.actions == [1, 1, 1, 0, 0]


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
    image = np.random.default_rng(0).integers(256, size=(8, 8), dtype=np.uint8)
    env = adapt(Scripted(spaces.Box(0, 255, (8, 8), np.uint8), obs=image), size=2)
    means = image.reshape(2, 4, 2, 4).mean((1, 3))
    np.testing.assert_allclose(env.reset()[0]["image"][..., 0], means, atol=0.51)


def test_observations_do_not_share_memory_with_the_environment():
    image, vector = np.zeros((4, 4, 1), np.uint8), np.zeros(3, np.float32)
    space = spaces.Dict(
        {"i": spaces.Box(0, 255, (4, 4, 1), np.uint8), "v": spaces.Box(0, 1, (3,), np.float32)}
    )
    seen, _ = adapt(Scripted(space, obs={"i": image, "v": vector}), size=4).reset()
    image += 1
    vector += 1
    assert seen["i"].max() == 0 and seen["v"].max() == 0


def test_text_is_left_out_with_one_line(caplog):
    space = spaces.Dict({"mission": spaces.Text(5), "x": spaces.Discrete(2)})
    with caplog.at_level(logging.INFO):
        env = adapt(Scripted(space, obs={"mission": "a", "x": 1}), size=64)
    assert [record.getMessage() for record in caplog.records] == [
        "observation 'mission' is text and is left out"
    ]
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
        (spaces.MultiDiscrete([2, 2]), "must be Discrete or float Box"),
        (spaces.Box(0, 3, (1,), np.int32), "must be Discrete or float Box"),
        (spaces.Box(-np.inf, 1.0, (1,), np.float32), "bounds must be finite"),
    ],
)
def test_unsupported_action_spaces(space, message):
    with pytest.raises(ValueError, match=message):
        adapt(Scripted(spaces.Discrete(2), action_space=space), size=64)


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


IMAGE = spaces.Box(0, 255, (8, 8, 3), np.uint8)
VECTOR = spaces.Box(-1, 1, (2,), np.float32)


@pytest.mark.parametrize(
    ("space", "obs", "message"),
    [
        (IMAGE, np.zeros((8, 9, 3), np.uint8), r"'image' changed shape from \(8, 8, 3\) to \(8, 9"),
        (IMAGE, np.zeros((8, 8, 3), np.int16), "'image' changed dtype from uint8 to int16"),
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


# Snapshots


@pytest.mark.parametrize("task", ["catch", "gym:CartPole-v1", "gym:MountainCarContinuous-v0"])
def test_restored_environment_goes_on_identically(task):
    make = functools.partial(make_env, task, 7, time_limit=30)
    assert has_state(make()) or pickles_exactly(make)
    env = make()
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(100)]
    env.reset()
    rollout(env, actions[:20])
    env.step(actions[20])
    data = snapshot(env)
    expected = rollout(env, actions)
    assert_same(rollout(restore(make(), data), actions), expected)
    assert_same(rollout(restore(env, data), actions), expected)


def test_snapshot_has_the_time_limit_in_it():
    env = make_env("catch", 0, time_limit=5)
    env.reset()
    env.step(1)
    env.step(1)
    other = restore(make_env("catch", 1, time_limit=5), snapshot(env))
    assert [other.step(1)[3] for _ in range(3)] == [False, False, True]


def test_restoring_into_other_wrappers_is_an_error():
    env = make_env("catch", 0, time_limit=5)
    env.reset()
    with pytest.raises(ValueError, match="was wrapped in"):
        restore(make_env("catch", 0), snapshot(env))


class Forgetful(gymnasium.utils.EzPickle, Scripted):
    """Unpickles as a new environment, as many do."""

    def __init__(self):
        gymnasium.utils.EzPickle.__init__(self)
        Scripted.__init__(self, spaces.Discrete(2), obs=0, length=10)


class Unpicklable(Scripted):
    def __init__(self):
        super().__init__(spaces.Discrete(2), obs=0)
        self.generator = (n for n in range(3))


@pytest.mark.parametrize("kind", [Forgetful, Unpicklable])
def test_inexact_pickling_is_found_out(kind, caplog):
    make = functools.partial(make_env, lambda seed: kind(), 0)
    assert not pickles_exactly(make)
    assert "cannot be saved exactly" in caplog.text


def test_seed_first_reset_keeps_an_explicit_seed():
    env = SeedFirstReset(Catch(), seed=1)
    first, _ = env.reset(seed=2)
    np.testing.assert_array_equal(first, Catch().reset(seed=2)[0])
