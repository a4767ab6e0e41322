"""The spaces and the code of an environment, found out by building one and closing it again."""

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import gymnasium
from gymnasium import spaces

from dreamer_jax.envs.vector.process import ProcessVector
from dreamer_jax.envs.vector.vector import LocalVector


class Probed(NamedTuple):
    """A description of an environment, made before it is used."""

    observation_space: spaces.Dict
    action_space: spaces.Space
    code: dict[str, str]  # digests of its classes, see `code_digests`
    statistics: list[str]  # names of wrappers that keep running statistics
    readings: dict[str, str]  # how each entry of the observation is read, see `adapt`


def probe(
    make_env: Callable[[], gymnasium.Env], *, workers: int = 0, timeout: float = 60.0
) -> Probed:
    """Build an environment and describe it.

    Args:
        make_env: builds an adapted environment.
        workers: 0 builds it in this process, any other number in a worker process.
        timeout: see `ProcessVector`.

    Raises:
        Exception: what building it raises; see `ProcessVector` with workers.
    """
    vector = ProcessVector([make_env], 1, timeout) if workers else LocalVector([make_env])
    with contextlib.closing(vector):
        return Probed(vector.observation_space, vector.action_space, *vector.describe())
