"""Actions of every space, made from an index, from indices of factors, or from a vector."""

import numpy as np
import pytest
from env_doubles import Scripted
from gymnasium import spaces

from dreamer_jax.envs.wrappers import adapt
from dreamer_jax.errors import UsageError


def taken(space, actions):
    """Return the adapted space, and what the environment gets for some actions."""
    base = Scripted(spaces.Discrete(2), action_space=space)
    env = adapt(base, size=8)
    env.reset()
    for action in actions:
        env.step(np.array(action))
    assert all(space.contains(action) for action in base.actions)
    return env.action_space, base.actions


@pytest.mark.parametrize(
    ("space", "factors", "action", "expected"),
    [
        (spaces.MultiDiscrete([3, 2], start=[5, -1]), [3, 2], [2, 1], [7, 0]),
        (spaces.MultiDiscrete([[2, 3]]), [2, 3], [1, 2], [[1, 2]]),
        (spaces.MultiBinary(3), [2, 2, 2], [0, 1, 1], [0, 1, 1]),
        (spaces.Box(np.array([-2, 0]), np.array([1, 4]), dtype=np.int32), [4, 5], [3, 4], [1, 4]),
    ],
)
def test_factors(space, factors, action, expected):
    adapted, actions = taken(space, [action])
    assert adapted == spaces.MultiDiscrete(factors)
    np.testing.assert_array_equal(actions[0], expected)


def test_dictionaries_and_tuples_are_joined_in_their_order():
    space = spaces.Dict(
        {
            "arm": spaces.Tuple([spaces.MultiBinary(2), spaces.Box(0, 2, (1,), np.int8)]),
            "legs": spaces.Discrete(3, start=4),
        }
    )
    adapted, actions = taken(space, [[1, 0, 2, 1]])
    assert adapted == spaces.MultiDiscrete([2, 2, 3, 3])
    assert actions[0]["legs"] == 5
    assert [part.tolist() for part in actions[0]["arm"]] == [[1, 0], [2]]

    box = spaces.Box(np.array([0.0, -4.0]), np.array([1.0, 4.0]), dtype=np.float64)
    adapted, actions = taken(spaces.Tuple([box, spaces.Box(-1, 1, (1,))]), [[0.0, 0.5, -1.0]])
    assert adapted == spaces.Box(-1.0, 1.0, (3,), np.float32)
    assert [part.tolist() for part in actions[0]] == [[0.5, 2.0], [-1.0]]


@pytest.mark.parametrize("action", [[2, 0], [0, -1], [0], [0.0, 0.0], 0])
def test_wrong_factors_are_errors(action):
    with pytest.raises(ValueError, match="is not 2 integers"):
        taken(spaces.MultiDiscrete([2, 2]), [action])


FLOAT_MAX = np.finfo(np.float32).max


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(-np.inf, 1.0, (1,)), "bounds must be finite.*TransformAction"),
        (spaces.Box(-FLOAT_MAX, FLOAT_MAX, (1,)), "bounds must be finite"),
        (spaces.Box(0, 5000, (1,), np.int32), "5001 values, and at most 1024.*float Box"),
        (spaces.Dict({"a": spaces.Discrete(2), "b": spaces.Box(-1, 1, (1,))}), "mixes discrete"),
        (spaces.Text(3), "must be Discrete, MultiDiscrete, MultiBinary, Box"),
        (spaces.Sequence(spaces.Discrete(2)), "must be Discrete"),
        (spaces.Box(-1, 1, (0,)), "has no actions"),
        (spaces.Dict({}), "has no actions"),
    ],
)
def test_what_is_not_supported_says_what_to_do(space, message):
    with pytest.raises(UsageError, match=message):
        adapt(Scripted(spaces.Discrete(2), action_space=space), size=8)
