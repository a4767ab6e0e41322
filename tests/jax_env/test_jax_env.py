"""Environments that are JAX programs: the law of the host's, normalised by the same rules."""

from functools import partial

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from env_doubles import Scripted
from gymnasium import spaces

from dreamer_jax.envs.catch import Catch
from dreamer_jax.envs.jax_env import AdaptedEnv, JaxVector, SingleEnv, is_jax_env, make_jax_env
from dreamer_jax.envs.jax_env.catch import CatchState, JaxCatch
from dreamer_jax.envs.jax_env.reach import JaxReach, ReachState
from dreamer_jax.envs.jax_env.rows import init_rows, reset_rows
from dreamer_jax.envs.reach import HIGH, LOW, Reach
from dreamer_jax.envs.registry import EnvSettings, make_env
from dreamer_jax.envs.wrappers import adapt
from dreamer_jax.errors import UsageError

KEY = jax.random.key(0)


def adapted(env, **settings):
    return AdaptedEnv(env, EnvSettings(**settings))


def vector(env, num_envs, **settings):
    return JaxVector(adapted(env, **settings), lambda row, generation: 100 + row, num_envs)


def test_catch_steps_as_the_host_does():
    host, env = Catch(), JaxCatch()
    step = jax.jit(env.step)
    host.reset(seed=0)
    for ball in range(5):
        for paddle in range(5):
            host.set_state(host.get_state() | {"row": 0, "ball": ball, "paddle": paddle})
            state = CatchState(*map(jnp.int32, (0, ball, paddle)))
            for i in range(7):
                action = (ball + 2 * paddle + i * i) % 3
                state, obs, *results = step(KEY, state, action)
                expected, *expected_results, _ = host.step(action)
                assert np.array_equal(obs, expected) and obs.dtype == expected.dtype
                assert [float(x) for x in results] == [float(x) for x in expected_results]
            assert results[1]


def test_reach_steps_as_the_host_does():
    """Positions are float32 here, so that a pixel at a rounding boundary may differ by one."""
    host, env, rng = Reach(), JaxReach(), np.random.default_rng(0)
    step = jax.jit(env.step)
    host.reset(seed=0)
    for start in ((8.0, 56.0), (31.0, 32.0), (50.0, 9.0)):
        host.set_state(host.get_state() | {"step": 0, "dot": start})
        state = ReachState(jnp.array(start), jnp.int32(0))
        for _ in range(30):
            action = rng.uniform(-1.2, 1.2, 2).astype(np.float32)
            state, obs, reward, *ends = step(KEY, state, action)
            expected, expected_reward, *expected_ends, _ = host.step(action)
            difference = np.abs(np.asarray(obs, int) - expected)
            assert difference.max() <= 1 and (difference > 0).mean() < 1e-3
            assert float(reward) == pytest.approx(expected_reward, abs=1e-6)
            assert [bool(x) for x in ends] == expected_ends
        assert ends[1]


@pytest.mark.parametrize(
    ("env", "low", "high", "places"),
    [
        (JaxCatch(), 0, 4, lambda state: jnp.stack([state.ball, state.paddle])),
        (JaxReach(), LOW, HIGH, lambda state: state.dot),
    ],
)
def test_starts_are_uniform_and_independent(env, low, high, places):
    starts = jax.jit(jax.vmap(lambda key: places(env.reset(key)[0])))(jax.random.split(KEY, 20_000))
    starts = np.asarray(starts, int) - low
    count = high - low + 1
    found = np.zeros((count, count))
    np.add.at(found, tuple(starts.T), 1)
    expected = 20_000 / count**2
    # Chi-square with count^2 - 1 degrees of freedom: five standard deviations.
    statistic = ((found - expected) ** 2 / expected).sum()
    freedom = count**2 - 1
    assert abs(statistic - freedom) < 5 * np.sqrt(2 * freedom)


def test_the_first_frame_is_the_hosts():
    state, obs = jax.jit(JaxCatch().reset)(KEY)
    host = Catch()
    host.reset(seed=0)
    host.set_state(host.get_state() | {"row": 0, "ball": int(state.ball)})
    host.set_state(host.get_state() | {"paddle": int(state.paddle)})
    assert np.array_equal(obs, host._image())


class Parts:
    """Counts its steps in observations of every kind, from 3.

    The state holds a Python number after a reset, and float pixels are 40 x 48.
    """

    observation_space = spaces.Dict(
        {
            "camera": spaces.Box(0.0, 1.0, (40, 48, 3), np.float32),
            "board": spaces.Box(0, 9, (2, 3), np.int32),
            "which": spaces.Discrete(9, start=1),
            "switches": spaces.MultiBinary(2),
        }
    )
    action_space = spaces.Box(np.array([-2, 0], np.float32), np.array([2, 10], np.float32))

    def reset(self, key):
        return {"count": 3, "action": jnp.zeros(2)}, self._observe(3)

    def step(self, key, state, action):
        state = {"count": state["count"] + 1, "action": action}
        count = state["count"]
        return state, self._observe(count), action[1] + 0.5, count >= 8, False

    def _observe(self, count):
        pixels = jax.random.uniform(KEY, (40, 48, 3))
        return {
            "camera": pixels,
            "board": jnp.full((2, 3), count),
            "which": jnp.asarray(count),
            "switches": jnp.array([0, 1], jnp.int8),
        }


def test_spaces_are_read_as_those_of_gymnasium():
    env = adapted(Parts())
    assert list(env.observation_space) == ["board", "camera", "switches", "which"]
    _, obs = jax.jit(env.reset)(KEY)
    shapes = {key: (box.shape, box.dtype) for key, box in env.observation_space.items()}
    assert {key: (x.shape, x.dtype) for key, x in obs.items()} == shapes
    assert env.observation_space["camera"].shape == (64, 64, 3)
    assert obs["which"].tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0]
    assert obs["board"].tolist() == [3] * 6 and obs["switches"].tolist() == [0, 1]
    assert env.action_space == spaces.Box(-1, 1, (2,), np.float32)
    state, *_ = jax.jit(env.step)(KEY, env.reset(KEY)[0], jnp.array([-1.0, 0.5]))
    assert state[0]["action"].tolist() == [-2.0, 7.5]


@pytest.mark.parametrize("size", [32, 64, 96])
def test_images_are_resized_as_by_opencv(size):
    pixels = Parts()._observe(0)["camera"]
    image = adapted(Parts(), size=size).reset(KEY)[1]["camera"]
    raw = np.rint(255 * np.asarray(pixels)).astype(np.uint8)
    expected = cv2.resize(raw, (size, size), interpolation=cv2.INTER_AREA)
    difference = np.abs(np.asarray(image, int) - expected)
    # OpenCV interpolates bytes in fixed point where it enlarges.
    assert difference.max() <= 1


class Board(Parts):
    """Observes a board whose cells are empty or full."""

    observation_space = spaces.Box(0, 1, (10, 5), np.float32)

    def _observe(self, count):
        return jnp.zeros((10, 5)).at[count, count % 5].set(1)


def read_both(space, value, **settings):
    """Return what an observation is read as here, and by `adapt`."""
    env = Parts()
    env.observation_space, env._observe = space, lambda count: jax.tree.map(jnp.asarray, value)
    host = adapt(Scripted(space, obs=value), size=64, **settings)
    return adapted(env, **settings).reset(KEY)[1], host.reset()[0]


ONES = np.eye(64, dtype=np.uint8)
POINT = spaces.Box(-1, 1, (2,), np.float32)
PAIR = spaces.Tuple(
    [spaces.Discrete(2), spaces.Dict({"b": POINT, "a": spaces.MultiDiscrete([2, 3])})]
)


@pytest.mark.parametrize(
    ("space", "value", "settings"),
    [
        (spaces.Box(0, 1, (64, 64), np.float32), ONES, {}),  # bytes where floats are declared
        (spaces.Box(0, 5, (64, 64), np.uint8), 5 * ONES, {"images": ".*"}),
        (spaces.Box(0, 255, (64, 64), np.uint8), 5 * ONES, {}),
        (PAIR, (np.int32(1), {"b": np.float32([0.5, -1]), "a": np.int32([1, 2])}), {}),
    ],
)
def test_values_are_read_as_those_of_gymnasium(space, value, settings):
    found, expected = read_both(space, value, **settings)
    (key,) = expected
    np.testing.assert_array_equal(found[key], expected[key])
    assert found[key].dtype == expected[key].dtype and expected[key].max() > 0


@pytest.mark.parametrize(
    ("space", "value", "message"),
    [
        (spaces.Box(0, 255, (64, 64), np.uint8), np.eye(64), "changed dtype from uint8 to float"),
        (spaces.Box(0, 9, (2,), np.int32), np.ones(2), "changed dtype from int32 to float32"),
        (spaces.Box(0, 9, (2,)), np.ones(3), r"changed shape from \(2,\) to \(3,\)"),
        (spaces.Discrete(4), 1.5, r"is float32 \[\]; its space declares integers \[\]"),
        (PAIR, (np.int32(1),), "'vector' is a tuple, not a tuple of 2 entries"),
    ],
)
def test_observations_that_are_not_as_declared(space, value, message):
    env = Parts()
    env.observation_space, env._observe = space, lambda count: jax.tree.map(jnp.asarray, value)
    with pytest.raises(UsageError, match=message):
        adapted(env)


def test_boards_are_read_as_grids():
    env = adapted(Board(), grids="vector")
    assert env.observation_space["vector"].dtype == bool and "a grid" in env.readings["vector"]
    grid = jax.jit(env.reset)(KEY)[1]["vector"]
    assert grid.dtype == bool and grid.shape == (10, 5, 1)
    assert np.argwhere(grid).tolist() == [[3, 3, 0]]


def state_of(env):
    return env.reset(KEY)[0]


def test_time_limits_truncate_and_repeated_actions_add_their_rewards():
    env = adapted(Parts(), time_limit=4, action_repeat=3)
    step = jax.jit(env.step)
    state, _ = env.reset(KEY)
    action = jnp.array([0.0, -1.0])
    state, obs, reward, terminated, truncated = step(KEY, state, action)
    assert (float(reward), bool(terminated), bool(truncated)) == (1.5, False, False)
    assert obs["board"][0] == 6
    state, obs, reward, terminated, truncated = step(KEY, state, action)
    assert (float(reward), bool(terminated), bool(truncated)) == (0.5, False, True)
    assert obs["board"][0] == 7  # the last observation, not the first of the next episode
    env = adapted(Parts(), time_limit=9, action_repeat=9)
    *_, reward, terminated, truncated = jax.jit(env.step)(KEY, state_of(env), action)
    assert (float(reward), bool(terminated), bool(truncated)) == (2.5, True, False)


class Keyed(Board):
    """Keeps a random key, and an array of them, in its state."""

    def reset(self, key):
        state, obs = super().reset(key)
        return state | {"key": key, "keys": jax.random.split(key, 3)}, obs

    def step(self, key, state, action):
        inner, *results = super().step(key, state, action)
        return inner | {"key": key, "keys": state["keys"]}, *results


def test_rows_of_states_with_keys_can_be_donated():
    env, seeds = adapted(Keyed()), jnp.arange(2, dtype=jnp.uint32)
    step = jax.jit(lambda rows, mask: reset_rows(env, rows, mask), donate_argnums=0)
    rows = step(init_rows(env, seeds), jnp.array([True, False]))
    expected = reset_rows(env, init_rows(env, seeds), jnp.array([True, False]))
    found, other = (jax.tree.leaves(r.state[0]["keys"]) for r in (rows, expected))
    assert jax.random.key_data(found[0]).tolist() == jax.random.key_data(other[0]).tolist()


def test_rows_are_as_alone_and_reset_one_by_one():
    three, one = vector(JaxCatch(), 3), JaxVector(adapted(JaxCatch()), lambda r, g: 102, 1)
    a, b = three.reset()["image"], one.reset()["image"]
    assert np.array_equal(a[2], b[0]) and not np.array_equal(a[0], a[1])
    for _ in range(7):
        result, alone = three.step(np.array([0, 1, 2])), one.step(np.array([2]))
        assert np.array_equal(result.obs["image"][2], alone.obs["image"][0])
    assert result.is_last.all() and result.is_terminal.all() and not result.failed.any()
    assert result.reward[2] == alone.reward[0] and set(np.abs(result.reward)) == {1.0}
    last = result.obs["image"].copy()
    obs = three.reset(np.array([True, False, False]))["image"]
    assert np.array_equal(obs[1:], last[1:]) and not np.array_equal(obs[0], last[0])
    with pytest.raises(ValueError, match=r"environments \[1, 2\] are at the end"):
        three.step(np.array([0, 0, 0]))
    result = three.step(np.array([1, 1, 1]), np.array([True, False, False]))
    assert np.array_equal(result.obs["image"][1:], last[1:]) and not result.is_last.any()


def test_a_vector_is_restored_exactly():
    vectors = vector(JaxReach(), 2), vector(JaxReach(), 2)
    vectors[0].reset()
    for _ in range(29):
        vectors[0].step(np.zeros((2, 2), np.float32))
    assert vectors[1].restore(vectors[0].state()).tolist() == [True, True]
    for v in vectors:
        assert v.step(np.ones((2, 2), np.float32)).is_last.all()
    assert np.array_equal(*(v.reset()["image"] for v in vectors))
    assert np.array_equal(*(v.step(np.ones((2, 2), np.float32)).reward for v in vectors))
    lost = [vectors[0].state()[0], {"environment": None, "generation": 0}]
    assert vectors[1].restore(lost).tolist() == [True, False]


def test_one_environment_as_gymnasium_has_it():
    env = SingleEnv(adapted(JaxCatch()), seed=100)
    obs, _ = env.reset()
    assert np.array_equal(obs["image"], vector(JaxCatch(), 1).reset()["image"][0])
    for _ in range(7):
        obs, reward, terminated, truncated, _ = env.step(1)
    assert terminated and not truncated and abs(reward) == 1.0
    assert obs["image"].shape == (64, 64, 1)


def changed(**functions):
    env = Parts()
    for name, function in functions.items():
        setattr(env, name, partial(function, env))
    return env


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (changed(step=lambda self, k, s, a: (s, self._observe(0), 1.0, np.True_, s["count"] > 2)
                 if s["count"] > 2 else None), "no environment of pure JAX functions"),
        (changed(_observe=lambda self, count: {"camera": jnp.zeros(3)}), "'board' is missing"),
        (changed(step=lambda self, k, s, a: (s, *Parts.step(self, k, s, a)[1:2], a, False, False)),
         r"array \(2,\) where a scalar"),
        (changed(step=lambda self, k, s, a: (1, *Parts.step(self, k, s, a)[1:])), "structure"),
    ],
)  # fmt: skip
def test_functions_that_are_not_as_declared(env, message):
    with pytest.raises(UsageError, match=message):
        adapted(env)


def test_what_is_a_jax_environment():
    assert is_jax_env(JaxCatch()) and is_jax_env(Parts())
    assert not is_jax_env(make_env("catch", 0)) and not is_jax_env(JaxCatch)
    assert not is_jax_env(lambda seed: Catch())
    with pytest.raises(UsageError, match="choose one of: catch, craftax, gymnax, reach"):
        make_jax_env("gym:CartPole-v1", EnvSettings())
    with pytest.raises(UsageError, match="has no variants"):
        make_jax_env("catch:fast", EnvSettings())
