"""Exploration noise by itself, in the agent's step, and its part of a run."""

import contextlib
import functools
import io
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_tiny_config
from mock_agents import mock_agent, mock_state

from dreamer_jax.agent import agent as agent_lib
from dreamer_jax.behavior.exploration import (
    NOISES,
    Exploration,
    draw_factors,
    draw_onehot,
    draw_uniform,
)
from dreamer_jax.errors import UsageError
from dreamer_jax.report.progress import Progress
from dreamer_jax.run.schedule import explores
from dreamer_jax.run.setup import build
from dreamer_jax.run.signals import StopSignals
from dreamer_jax.run.trainer import Trainer
from dreamer_jax.run.workdir import WorkDir

ROWS = 4000


def explored(name, action, update=0, *, draw=draw_uniform, start=0.3, final=0.3, updates=100):
    exploration = Exploration(NOISES[name], draw, start, final, updates)
    return np.asarray(exploration(jnp.asarray(action), jax.random.key(0), jnp.int32(update)))


def test_normal_noise_is_added_and_clipped():
    inside = explored("normal", np.full((ROWS, 2), 0.1, np.float32), start=0.2, final=0.2)
    np.testing.assert_allclose(inside.mean(0), [0.1, 0.1], atol=0.015)
    np.testing.assert_allclose(inside.std(0), [0.2, 0.2], atol=0.01)
    assert abs(np.corrcoef(inside.T)[0, 1]) < 0.05  # one draw per action and row
    edge = explored("normal", np.full((ROWS, 1), 0.95, np.float32))
    assert edge.max() == 1 and edge.min() < 0.5
    np.testing.assert_allclose((edge == 1).mean(), 0.434, atol=0.03)  # of a normal beyond 1/6 std


def test_epsilon_greedy_replaces_whole_actions_by_equally_likely_ones():
    greedy = np.eye(4, dtype=np.float32)[np.zeros(ROWS, int)]
    action = explored("epsilon_greedy", greedy, draw=draw_onehot, start=0.4, final=0.4)
    assert set(np.unique(action)) == {0, 1} and (action.sum(-1) == 1).all()
    # Of the 40%, a quarter draws the greedy action again.
    np.testing.assert_allclose(action.mean(0), [0.7, 0.1, 0.1, 0.1], atol=0.03)
    continuous = explored("epsilon_greedy", np.full((ROWS, 2), 0.5, np.float32))
    kept = continuous == 0.5
    assert (kept[:, 0] == kept[:, 1]).all()
    np.testing.assert_allclose(kept.mean(), 0.7, atol=0.03)


def test_random_factors_are_drawn_independently():
    draw = functools.partial(draw_factors, factors=(2, 3))
    drawn = explored("random", np.zeros((ROWS, 5), np.float32), draw=draw)
    assert set(np.unique(drawn)) == {0, 1}
    np.testing.assert_allclose(drawn.mean(0), [1 / 2, 1 / 2, 1 / 3, 1 / 3, 1 / 3], atol=0.03)
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 2])[0, 1]) < 0.06


def test_epsilon_is_annealed_over_updates():
    greedy = np.eye(2, dtype=np.float32)[np.zeros(ROWS, int)]
    for update, epsilon in ((0, 0.4), (50, 0.25), (100, 0.1), (900, 0.1)):
        action = explored("epsilon_greedy", greedy, update, draw=draw_onehot, start=0.4, final=0.1)
        np.testing.assert_allclose(action[:, 1].mean(), epsilon / 2, atol=0.025)


def test_random_actions_and_none():
    action = np.full((ROWS, 3), 0.5, np.float32)
    np.testing.assert_array_equal(explored("none", action), action)
    drawn = explored("random", action, start=0.0, final=0.0)
    np.testing.assert_allclose(drawn.mean(0), np.zeros(3), atol=0.05)
    assert -1 <= drawn.min() < -0.99 and 0.99 < drawn.max() <= 1


class Acting:
    """A vector agent, and one step of it on two environments."""

    def __init__(self, action, **changes):
        self.agent, hypers = mock_agent("vector", action, **changes)
        self.params = mock_state(self.agent, hypers).params
        self.carry = agent_lib.init_policy(self.agent, jax.random.key(3), 2)
        self.args = {"position": jnp.ones((2, 3))}, jnp.array([True, True])

    def policy(self):
        step = functools.partial(agent_lib.policy_step, self.agent)
        return jax.jit(step)(self.params, self.carry, *self.args)

    def explore(self, update=0):
        step = functools.partial(agent_lib.explore_step, self.agent)
        return jax.jit(step)(self.params, self.carry, *self.args, jnp.int32(update))


def test_exploring_without_noise_is_the_policy():
    acting = Acting("discrete")
    (one, first), (two, second) = acting.policy(), acting.explore()
    np.testing.assert_array_equal(first, second)
    jax.tree.map(np.testing.assert_array_equal, one.state, two.state)


def test_noise_is_in_the_exploring_step_alone_and_the_model_remembers_it():
    acting = Acting("continuous", expl={"noise": "normal", "amount": 0.1})
    quiet = replace(acting.agent, exploration=Acting("continuous").agent.exploration)
    (carry, noisy), (_, plain) = acting.explore(), acting.policy()
    assert 0 < np.abs(noisy - plain).max() < 0.6
    np.testing.assert_array_equal(carry.action, noisy)
    acting.agent = quiet
    np.testing.assert_array_equal(acting.policy()[1], plain)


def test_noise_must_fit_the_actions():
    with pytest.raises(UsageError, match="'normal'.*none or epsilon_greedy or random"):
        mock_agent("vector", "discrete", expl={"noise": "normal"})


def test_exploration_ends():
    config = make_tiny_config(expl={"until": 100})
    assert [explores(config, step) for step in (0, 99, 100)] == [True, True, False]
    config.expl.until = 0
    assert explores(config, 10**9)


@pytest.mark.slow
def test_a_run_explores_with_its_updates_until_the_end_of_exploration(tmp_path):
    parts = build(make_tiny_config(steps=120, expl={"until": 90}))
    calls = []

    def note(name):
        fn = getattr(parts.fns, name)

        def call(*args):
            calls.append((name, [int(x[0]) for x in args[4:]]))
            return fn(*args)

        return call

    fns = parts.fns._replace(**{n: note(n) for n in ("policy_step", "explore_step")})
    parts, work = replace(parts, fns=fns), WorkDir(tmp_path / "run")
    progress = Progress(120, parts.seeds, enabled=False, stream=io.StringIO())
    with work.claim(parts.config), contextlib.ExitStack() as closing:
        Trainer(parts, work, progress, StopSignals(), closing).run()
    # Random actions up to step 40; one update there and one every 8 steps, each of which is made
    # behind the policy's step.
    explored = [("explore_step", [-(-(step - 40) // 8)]) for step in range(40, 90)]
    assert calls == explored + [("policy_step", [])] * 30
