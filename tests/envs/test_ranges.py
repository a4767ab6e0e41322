"""Numbers and types of environments that are narrower or wider than ours."""

import gymnasium
import jax
import numpy as np
import pytest
from conftest import make_tiny_config
from env_doubles import Scripted
from gymnasium import spaces
from gymnasium.wrappers import NormalizeObservation, NormalizeReward

from dreamer_jax import UsageError
from dreamer_jax.envs import make_env
from dreamer_jax.run.setup import about_wrappers, build


class CInt(Scripted):
    """An environment that keeps its seed in a signed C int."""

    def __init__(self, seed=0):
        super().__init__(spaces.Discrete(2), obs=0)
        self.built = int(np.int32(seed))

    def reset(self, *, seed=None, options=None):
        if seed is not None and seed >= 2**31:
            raise OverflowError("Python int too large to convert to C int")
        self.seed = seed
        return self.obs, {}


@pytest.mark.parametrize(("seed", "given"), [(2**31 - 1, 2**31 - 1), (2**32 - 2, 2**31 - 2)])
def test_seeds_of_31_bits_go_to_those_that_take_no_more(seed, given):
    env = make_env(CInt, seed)
    env.reset()
    assert (env.unwrapped.built, env.unwrapped.seed) == (given, given)
    seen = []
    make_env(lambda seed: seen.append(seed) or CInt(), seed)
    assert seen == [seed]  # others get what they always got


def test_other_errors_of_a_reset_are_not_retried():
    class Broken(Scripted):
        tries = 0

        def reset(self, *, seed=None, options=None):
            Broken.tries += 1
            raise ValueError("no level")

    env = make_env(lambda seed: Broken(spaces.Discrete(2)), 5)
    with pytest.raises(ValueError, match="no level"):
        env.reset()
    assert Broken.tries == 1


@pytest.mark.parametrize("reward", [1e39, -1e39, np.float64(4e38), 10**60])
def test_rewards_must_fit_what_they_are_recorded_in(reward):
    env = make_env(lambda seed: Scripted(spaces.Discrete(2), obs=0, reward=reward), 0)
    env.reset()
    with pytest.raises(ValueError, match=r"reward must be a finite number, not .*as float32"):
        env.step(0)


def named(name):
    box = spaces.Box(-1, 1, (2,), np.float32)
    return lambda seed: Scripted(spaces.Dict({name: box, "b": box}))


@pytest.mark.parametrize("name", ["actor", "critic", "model", "reward"])
def test_observations_may_not_have_the_names_of_metrics(name):
    with pytest.raises(UsageError, match=f"observation '{name}' has the name of"):
        build(make_tiny_config(), named(name))


def test_64_bits_are_refused():
    jax.config.update("jax_enable_x64", True)
    try:
        with pytest.raises(UsageError, match=r"JAX computes in 64 bits \(JAX_ENABLE_X64"):
            build(make_tiny_config())
    finally:
        jax.config.update("jax_enable_x64", False)


@pytest.mark.parametrize("wrap", [NormalizeObservation, NormalizeReward])
def test_wrappers_with_statistics_are_named(wrap):
    setup = build(make_tiny_config(), lambda seed: wrap(gymnasium.make("CartPole-v1")))
    assert about_wrappers(setup).startswith(f"{wrap.__name__} adapt to what each environment")
    assert about_wrappers(build(make_tiny_config())) == ""
