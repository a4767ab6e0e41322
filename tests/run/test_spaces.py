"""Environments of every public space of gymnasium train, evaluate, resume and load, or are refused.

The fast test sends samples of every space through the adapter; the slow one trains on some.
"""

import gymnasium
import numpy as np
import pytest
from conftest import SHALLOW, make_tiny_config
from env_doubles import Scripted
from gymnasium import spaces

from dreamer_jax import UsageError, evaluate, load, train
from dreamer_jax.envs.wrappers import adapt
from dreamer_jax.run.driver import to_env_actions
from dreamer_jax.run.setup import build, describe
from dreamer_jax.run.workdir import WorkDir
from dreamer_jax.types import ActionSpec

IMAGE = spaces.Box(0, 255, (40, 40, 3), np.uint8)
# Name -> space, and what its refusals as an observation and as an action say; '' if there is none.
SPACES = {
    "discrete": (spaces.Discrete(3, start=-1), "", ""),
    "multi_discrete": (spaces.MultiDiscrete([2, 3], start=[1, 0]), "", ""),
    "multi_discrete_2d": (spaces.MultiDiscrete([[2, 3], [4, 1]]), "", ""),
    "multi_binary": (spaces.MultiBinary((2, 2)), "", ""),
    "floats": (spaces.Box(-2, 3, (2, 1), np.float64), "", ""),
    "integers": (spaces.Box(-1, 1, (2,), np.int32), "", ""),
    "wide_integers": (spaces.Box(0, 10**6, (2,), np.int64), "", "at most 1024"),
    "unbounded": (spaces.Box(-np.inf, np.inf, (2,)), "", "bounds must be finite"),
    "image": (IMAGE, "", ""),
    "text": (spaces.Text(4), "one or more distinct entries", "must be Discrete"),
    "sequence": (spaces.Sequence(spaces.Discrete(2)), "no fixed length", "must be Discrete"),
    "graph": (spaces.Graph(spaces.Discrete(2), None), "no fixed length", "must be Discrete"),
    "one_of": (spaces.OneOf([spaces.Discrete(2), spaces.Discrete(3)]), "", "must be Discrete"),
    "empty": (spaces.Box(-1, 1, (0,)), "is empty", "has no actions"),
    "dict_of_factors": (
        spaces.Dict(a=spaces.Discrete(2), b=spaces.Tuple([spaces.MultiBinary(2)])), "", "",
    ),
    "tuple_of_floats": (
        spaces.Tuple([spaces.Box(-1, 1, (2,)), spaces.Dict(a=spaces.Box(0, 5, (1,)))]), "", "",
    ),
    "mixed": (spaces.Dict(a=spaces.Discrete(2), b=spaces.Box(-1, 1, (1,))), "", "mixes discrete"),
    "tuple_with_an_image": (spaces.Tuple([IMAGE, spaces.Discrete(2)]), "", ""),
    "nested": (spaces.Dict(a=spaces.Dict(b=spaces.Tuple([IMAGE, spaces.Text(3)]))), "", "must be"),
}  # fmt: skip


class Sampled(gymnasium.Env):
    """Samples of an observation space, episodes of seven steps, and a check of every action."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.time = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.time += 1
        return self.observation_space.sample(), 1.0, False, self.time >= 7, {}


@pytest.mark.parametrize("name", SPACES)
def test_the_adapter_takes_or_refuses_every_space(name):
    space, refusal, action_refusal = SPACES[name]
    if refusal:
        with pytest.raises(UsageError, match=refusal):
            adapt(Scripted(space), size=32)
    else:
        env = adapt(Sampled(space, spaces.Discrete(2)), size=32)
        env.reset(seed=0)
        assert env.observation_space.contains(env.step(0)[0])
    if action_refusal:
        with pytest.raises(UsageError, match=action_refusal):
            adapt(Scripted(spaces.Discrete(2), action_space=space), size=32)
    elif not isinstance(space, spaces.Box) or np.prod(space.shape) < 100:
        env = adapt(Sampled(spaces.Discrete(2), space), size=32)
        env.reset(seed=0)
        spec = ActionSpec.of(env.action_space)
        for action in spec.random(np.random.default_rng(0), 10):
            assert env.action_space.contains(action.astype(env.action_space.dtype))
            env.step(action)
        onehot = np.random.default_rng(0).uniform(-1, 1, (1, 1, spec.size))
        env.step(to_env_actions(onehot, spec)[0, 0])


def test_a_run_says_how_it_reads_every_entry(tmp_path):
    space = spaces.Dict(
        camera=spaces.Box(0, 255, (3, 40, 40), np.uint8),
        board=spaces.Box(0, 255, (7, 7, 3), np.uint8),
        note=spaces.Text(3),
    )
    config = make_tiny_config(env={"size": 32}, mlp_keys="none")
    setup = build(config, lambda seed: Sampled(space, spaces.Discrete(2)))
    board, camera, note = sorted(describe(setup, WorkDir(tmp_path)).splitlines()[1:])
    assert "uint8 3x40x40, is read as an image 32x32x3: channels first" in camera
    assert "is read as a vector of 147" in board and "not used" in board
    assert note == "observation 'note' is text and is left out"


# Observation and action space of each run: every kind of the adapter's results, in few programs.
RUNS = [
    ("tuple_with_an_image", "dict_of_factors"),
    ("multi_binary", "tuple_of_floats"),
    ("one_of", "integers"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("observation", "action"), RUNS)
def test_runs_train_evaluate_resume_and_load(observation, action, tmp_path):
    def make_env(seed):
        return Sampled(SPACES[observation][0], SPACES[action][0])

    config = make_tiny_config(
        steps=20, prefill=12, train_every=4, length=5, batch=2, horizon=3, eval_episodes=1,
        env={"size": 32}, **SHALLOW,
    )  # fmt: skip
    assert train(config, tmp_path / "run", make_env)["update"] == 3
    config.steps = 24
    result = train(config, tmp_path / "run", make_env)
    assert result["finished"] and result["update"] == 4
    assert evaluate(tmp_path / "run", episodes=1, make_env=make_env)["env_step"] == 24
    agent = load(tmp_path / "run", make_env=make_env)
    env = agent.make_env()
    obs, _ = env.reset()
    for sample in (False, True):
        chosen = agent.policy(obs, sample=sample)
        assert agent.action_space.contains(np.asarray(chosen, agent.action_space.dtype))
        obs = env.step(chosen)[0]


@pytest.mark.parametrize(
    ("observation", "action", "message"),
    [("sequence", "discrete", "no fixed length"), ("discrete", "mixed", "mixes discrete")],
)
def test_runs_of_other_spaces_are_refused_before_anything_is_written(
    observation, action, message, tmp_path
):
    def make_env(seed):
        return Sampled(SPACES[observation][0], SPACES[action][0])

    with pytest.raises(UsageError, match=message):
        train(make_tiny_config(), tmp_path / "run", make_env)
    assert not (tmp_path / "run").exists()
