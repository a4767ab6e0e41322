"""Tests of Catch, the registry and snapshots."""

import functools
import itertools
import subprocess
import sys

import cloudpickle
import gymnasium
import numpy as np
import pytest
from env_copies import check_restore, outcomes
from env_doubles import Scripted
from gymnasium import spaces
from gymnasium.wrappers import TimeLimit

from dreamer_jax.envs import env_maker, limit_and_repeat, make_env, register_task, registry
from dreamer_jax.envs.catch import BALL, COLUMNS, PADDLE, ROWS, Catch
from dreamer_jax.envs.vector.snapshot import restore, save_parts, save_whole
from dreamer_jax.envs.vector.trial import find_exact
from dreamer_jax.errors import UsageError
from dreamer_jax.schema import Registry

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
    move = np.zeros((COLUMNS, COLUMNS))  # transitions of the paddle under random actions
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
        return env.reset()[0]["image"].tobytes(), outcomes(env, actions)

    assert run(3) == run(3) != run(4)


def test_make_env_seeds_only_the_first_reset():
    env = make_env("catch", 0)
    firsts = {env.reset()[0]["image"].tobytes() for _ in range(20)}
    assert len(firsts) > 5
    explicit = env.reset(seed=0)[0]["image"]
    np.testing.assert_array_equal(explicit, make_env("catch", 0).reset()[0]["image"])


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("cach", "atari, catch, crafter, cue, dmc, .*gym.*Did you mean 'catch'"),
        ("catch:hard", "'catch' has no variants; catch:hard was given"),
        ("reach:hard", "'reach' has no variants; reach:hard was given"),
        ("gym:CartPol-v1", "Did you mean 'CartPole-v1'"),
        ("gym:", "there are [0-9]+, such as"),
        ("gym:Nowhere/Pong-v5", "registers Nowhere/...; name the one that does: gym:<module>:"),
        ("gym:no_such_module:Pong-v5", "cannot be made: No module named 'no_such_module'"),
        (lambda seed: seed, "returned a builtins.int; allowed: a gymnasium.Env$"),
        (Catch(), "make_env is an environment, Catch; allowed: a function from a seed"),
        (3, "make_env is 3; allowed: a function"),
    ],
)
def test_make_env_names_the_choices(task, message):
    with pytest.raises(ValueError, match=message):
        make_env(task, 0)


class OldReset(Catch):
    def reset(self):
        return self._image()


class NoOptions(Catch):
    def reset(self, seed=None):
        return super().reset(seed=seed)


class OldStep(Catch):
    def step(self, action):
        return super().step(action)[:4]


def test_environments_of_older_interfaces_are_named():
    with pytest.raises(UsageError, match=r"OldReset.reset\(\) takes no options and no seed; .*sh"):
        make_env(lambda seed: OldReset(), 0)
    with pytest.raises(UsageError, match=r"NoOptions.reset\(\) takes no options; allowed: reset"):
        make_env(lambda seed: NoOptions(), 0)
    with pytest.raises(UsageError, match=r"SyncVectorEnv; .*; set config.env.num_envs to step man"):
        make_env(lambda seed: gymnasium.make_vec("CartPole-v1", 2, "sync"), 0)
    old = type("OldEnv", (), {"reset": None, "step": None})
    with pytest.raises(UsageError, match="OldEnv; allowed: a gymnasium.Env; .*shimmy"):
        make_env(lambda seed: old(), 0)
    env = make_env(lambda seed: OldStep(), 0)
    env.reset()
    with pytest.raises(UsageError, match=r"OldStep.step\(\) returned 4 values; allowed: \(observ"):
        env.step(0)


def test_one_environment_is_not_used_twice():
    env = Catch()
    make_env(lambda seed: env, 0)
    for wrap in (lambda seed: env, lambda seed: TimeLimit(env, 5)):
        with pytest.raises(UsageError, match="returned the same environment again"):
            make_env(wrap, 1)


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


class Drawn(Catch):
    metadata = {"render_modes": ["ansi", "rgb_array"], "render_fps": 5}

    def __init__(self, render_mode="ansi"):
        super().__init__()
        self.render_mode = render_mode


gymnasium.register("Drawn-v0", Drawn, kwargs={"render_mode": "ansi"})
gymnasium.register("Undrawn-v0", Catch)  # takes no render_mode


def test_gym_ids_have_a_render_mode_of_ours_only_where_images_are_asked_for():
    assert make_env("gym:Drawn-v0", 0).unwrapped.render_mode == "ansi"
    assert make_env("gym:Drawn-v0", 0, render=True).unwrapped.render_mode == "rgb_array"
    assert make_env("gym:Undrawn-v0", 0).reset()[0]["image"].shape == (64, 64, 1)
    with pytest.raises(UsageError, match="render_mode cannot be chosen here"):
        make_env("gym:CartPole-v1", 0, kwargs={"render_mode": "human"})


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


def make_pendulum(variant, seed, settings):
    gravity = {"earth": 9.81, "moon": 1.62}[variant]
    return limit_and_repeat(gymnasium.make("Pendulum-v1", g=gravity), settings)


@pytest.fixture
def pendulum(monkeypatch):
    """Register a task as code outside of the package does."""
    monkeypatch.setattr(registry, "TASKS", Registry(registry.TASKS))
    assert register_task("pendulum")(make_pendulum) is make_pendulum


def test_a_registered_task_is_built_by_its_name(pendulum):
    env = make_env("pendulum:moon", 0, action_repeat=2, time_limit=3)
    assert env.unwrapped.g == 1.62
    env.reset()
    assert [env.step(np.zeros(1, np.float32))[3] for _ in range(2)] == [False, True]
    with pytest.raises(ValueError, match="choose one of: .*, gym, minigrid, pendulum, reach"):
        make_env("pendulums", 0)
    register_task("pendulum")(make_pendulum)
    with pytest.raises(ValueError, match="'pendulum' is registered already, by .*make_pendulum"):
        register_task("pendulum")(lambda variant, seed, settings: None)


def test_a_registered_task_is_built_in_a_process_that_does_not_know_it(pendulum, tmp_path):
    code = f"""
import cloudpickle, sys
sys.path[:0] = {sys.path!r}
make = cloudpickle.loads({cloudpickle.dumps(env_maker("pendulum:moon"))!r})
assert make(0).unwrapped.g == 1.62
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_room_imports_neither_jax_nor_the_emulator():
    code = (
        "import sys, dreamer_jax.envs as e; e.make_env('catch', 0).reset();"
        "assert not {'jax', 'ale_py'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# Snapshots


@pytest.mark.parametrize("task", ["catch", "gym:CartPole-v1", "gym:MountainCarContinuous-v0"])
def test_restored_environment_goes_on_identically(task):
    make = functools.partial(make_env, task, 7, time_limit=30)
    assert find_exact(make(), make)
    check_restore(task, 55, time_limit=30)


def test_snapshot_has_the_time_limit_in_it():
    env = make_env("catch", 0, time_limit=5)
    env.reset()
    env.step(1)
    env.step(1)
    data = save_parts(env)
    other = restore(make_env("catch", 1, time_limit=5), data)
    assert save_parts(other) == data and len(data) < 1_000  # what steps change, and nothing else
    assert [other.step(1)[3] for _ in range(3)] == [False, False, True]


def test_restoring_into_other_wrappers_is_an_error():
    env = make_env("catch", 0, time_limit=5)
    env.reset()
    with pytest.raises(ValueError, match="was wrapped in"):
        restore(make_env("catch", 0), save_parts(env))


class Forgetful(gymnasium.utils.EzPickle, Scripted):
    """An environment that, like many, unpickles as a new one."""

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
    assert find_exact(make(), make) is None
    assert "cannot be saved exactly" in caplog.text


class Partial(Catch):
    """Catch whose state lacks the random numbers, though it can be pickled."""

    exact_state = False

    def get_state(self):
        return super().get_state() | {"rng": np.random.default_rng(0).bit_generator.state}


def test_a_state_that_lacks_something_is_found_out():
    assert find_exact(make_env("catch", 0), None) is save_parts  # known, and not tried
    make = functools.partial(make_env, lambda seed: Partial(), 0)
    assert find_exact(make(), make) is save_whole


class Drift:
    """Noise with a memory."""

    value = 0.0

    def __call__(self):
        self.value += 0.125
        return self.value


class Drifting(gymnasium.RewardWrapper):
    def __init__(self, env):
        super().__init__(env)
        self.noise, self.sign = Drift(), lambda reward: reward

    def reward(self, reward):
        return self.sign(reward) + self.noise()


def test_callable_objects_of_wrappers_are_part_of_the_state():
    make = functools.partial(make_env, lambda seed: Drifting(Catch()), 0)
    env, other = make(), make()
    assert find_exact(env, make) is save_parts
    env.reset()
    assert [env.step(1)[1] for _ in range(2)] == [0.125, 0.25]
    assert restore(other, save_parts(env)).step(1)[1] == env.step(1)[1] == 0.375


COUNTS = {}  # the part of a state that is kept in the process


class Elsewhere(Scripted):
    """An environment that keeps its state outside of the object."""

    def __init__(self):
        super().__init__(spaces.Discrete(99), obs=0)

    def reset(self, *, seed=None, options=None):
        COUNTS.setdefault("resets", 40)
        return COUNTS["resets"], {}

    def step(self, action):
        return COUNTS["resets"] + 1, 0.0, False, False, {}


def test_state_outside_of_the_object_is_found_out_in_another_process(caplog):
    make = functools.partial(make_env, lambda seed: Elsewhere(), 0)
    env = make()
    env.reset()
    twin = restore(make(), save_whole(env))
    assert twin.step(0)[1:] == env.step(0)[1:]  # in this process it would pass
    assert find_exact(env, make) is None
    assert "KeyError: 'resets'" in caplog.text
