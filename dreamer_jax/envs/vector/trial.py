"""A trial of how an environment can be saved exactly, in processes of its own.

Many environments unpickle as new ones, built from their arguments, keep part of their state outside
of the object, in the process, or have a `get_state` that returns a part of it. So one process
builds an environment, saves it in the middle of an episode and goes on; another one restores the
saved state and takes the same steps.
"""

import copy
import json
import logging
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import cloudpickle
import gymnasium
import numpy as np

from dreamer_jax.envs.vector.snapshot import (
    Save,
    has_state,
    layers,
    restore,
    save_parts,
    save_whole,
)

log = logging.getLogger(__name__)

STEPS = 20  # after the save, before a reset
PATIENCE = 50.0  # seconds that each of the two processes may take
# Not `multiprocessing`, whose processes would run the user's script again.
START = f"import sys, json; sys.path[:] = json.loads(sys.argv[1]); from {__name__} import main; "


def find_exact(env: gymnasium.Env, make_env: Callable[[], gymnasium.Env]) -> Save | None:
    """Return a way to save an environment such that a restored copy continues exactly as it does.

    If the base environment declares `exact_state = True`, its methods are not tried, unless it is
    in a wrapper that is neither ours nor gymnasium's. In all other cases its methods `get_state`
    and `set_state` are tried, if it has them, and then pickling.

    Args:
        env: an environment, which is saved, and left as it is.
        make_env: builds environments like it, in other processes.

    Returns:
        None if no way is exact, and a warning says why.
    """
    if has_state(env) and _is_known(env):
        return save_parts
    reasons = []
    for save in (save_parts, save_whole) if has_state(env) else (save_whole,):
        try:
            save(env)  # saves the processes where it is hopeless
            if _compare(save, make_env):
                return save
            reason = "the copy in another process steps differently"
        except Exception as error:  # whatever an environment's own methods raise
            reason = f"{type(error).__name__}: {error}"
        reasons.append(reason)
    log.warning("%s cannot be saved exactly (%s)", env, "; ".join(dict.fromkeys(reasons)))
    return None


def _is_known(env: gymnasium.Env) -> bool:
    """Return whether the methods of an environment, and its wrappers, are taken to be exact."""
    *wrappers, base = layers(env)
    known = ("dreamer_jax.", "gymnasium.")
    return getattr(base, "exact_state", False) is True and all(
        type(wrapper).__module__.startswith(known) for wrapper in wrappers
    )


def _compare(save: Save, make_env: Callable[[], gymnasium.Env]) -> bool:
    pickled = cloudpickle.dumps(make_env)
    with _start("save") as first, _start("resume") as second:
        try:
            state, actions, expected = _ask(first, (save, pickled))
            return _same(_ask(second, (pickled, state, actions)), expected)
        finally:
            first.kill()
            second.kill()


def _start(role: str) -> subprocess.Popen:
    command = [sys.executable, "-c", f"{START} main({role!r})", json.dumps([*map(str, sys.path)])]
    pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
    variables = {"JAX_PLATFORMS": "cpu"} | os.environ  # as in `worker.serve`
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nowhere, env=variables)


def _ask(process: subprocess.Popen, message: Any) -> Any:
    reply, _ = process.communicate(pickle.dumps(message), timeout=PATIENCE)
    if not reply:
        raise RuntimeError(f"its process died with exit code {process.returncode}")
    result, problem = pickle.loads(reply)
    if problem:
        raise RuntimeError(problem)
    return result


def main(role: str) -> None:
    """Play one part of the trial, as its process: read a message, and write the reply."""
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what the environment prints is no part of the reply
    message = pickle.load(sys.stdin.buffer)
    try:
        reply = (_save if role == "save" else _resume)(*message), None
    except Exception as error:
        reply = None, f"{type(error).__name__}: {error}"
    with out:
        out.write(pickle.dumps(reply))


def _save(save: Save, make_env: bytes) -> tuple[bytes, list[Any], list[Any]]:
    """Return a state, the actions taken after it, and their results."""
    env = pickle.loads(make_env)()
    env.action_space.seed(0)
    env.reset()
    _advance(env, [env.action_space.sample() for _ in range(3)])
    state, actions = save(env), [env.action_space.sample() for _ in range(STEPS)]
    return state, actions, [_advance(env, actions), env.reset()[0]]


def _resume(make_env: bytes, state: bytes, actions: list[Any]) -> list[Any]:
    env = restore(pickle.loads(make_env)(), state)
    return [_advance(env, actions), env.reset()[0]]


def _advance(env: gymnasium.Env, actions: list[Any]) -> list[Any]:
    """Step through the actions with a reset after each end, and return copies of the results."""
    seen: list[Any] = []
    for action in actions:
        obs, *rest, _ = env.step(action)
        seen.append(copy.deepcopy((obs, *rest)))  # environments may reuse their arrays
        if any(rest[1:]):
            seen.append(copy.deepcopy(env.reset()[0]))
    return seen


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return np.array_equal(a, b)
