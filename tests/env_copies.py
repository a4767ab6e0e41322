"""Checks of environments that are saved in the middle of an episode and restored."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from gymnasium import spaces

from dreamer_jax.envs import make_env
from dreamer_jax.envs.vector.snapshot import has_state, restore, save_parts, save_whole


def random_actions(env, count):
    rng = np.random.default_rng(0)
    if isinstance(env.action_space, spaces.Discrete):
        return rng.integers(env.action_space.n, size=count)
    return rng.uniform(-1.0, 1.0, (count, *env.action_space.shape)).astype(np.float32)


def outcomes(env, actions):
    """Return all results of stepping through the actions, with a reset after each end."""
    seen = []
    for action in actions:
        obs, *rest, _ = env.step(action)
        seen.append((*as_bytes(obs), *rest))
        if any(rest[1:]):
            seen.append(as_bytes(env.reset()[0]))
    return seen


def as_bytes(obs):
    return tuple(value.tobytes() for value in obs.values())


def check_restore(task, steps, see=lambda env: None, **settings):
    """Check that an environment saved after `steps` steps is restored into itself and another.

    Args:
        see: called before saving and after every rollout; its results are compared too.
    """
    env, other = make_env(task, 0, **settings), make_env(task, 1, **settings)
    actions = random_actions(env, 2 * steps)
    env.reset()
    outcomes(env, actions[:steps])
    save = save_parts if has_state(env) else save_whole
    data, seen = save(env), see(env)

    def resume(env):
        return outcomes(env, actions[steps:]), as_bytes(env.reset()[0]), see(env)

    expected = resume(env)
    assert len(set(expected[0])) > 3
    for copy in (other, env):
        copy = restore(copy, data)
        np.testing.assert_array_equal(see(copy), seen)
        got = resume(copy)
        assert got[:2] == expected[:2]
        np.testing.assert_array_equal(got[2], expected[2])
        copy.close()


def digest_elsewhere(task, steps, ballast):
    """Return a digest of the results of `steps` steps in a new process.

    Args:
        ballast: number of objects that the process creates first, to change later addresses.
    """
    code = f"""
import hashlib
from env_copies import outcomes, random_actions
from dreamer_jax.envs import make_env
ballast = [object() for _ in range({ballast})]
env = make_env({task!r}, 5)
env.reset()
print(hashlib.sha256(repr(outcomes(env, random_actions(env, {steps}))).encode()).hexdigest())
env.close()
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": str(ballast)},
        cwd=Path(__file__).parent,
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return result.stdout
