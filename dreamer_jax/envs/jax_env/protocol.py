"""The protocol of environments that are JAX programs, and the registry of their tasks."""

from collections.abc import Callable
from typing import Any, Protocol

import gymnasium
from gymnasium import spaces

from dreamer_jax.envs.registry import EnvSettings
from dreamer_jax.errors import lookup
from dreamer_jax.schema import Registry
from dreamer_jax.types import Array

State = Any  # a pytree of arrays
Observation = Any  # a pytree of arrays as `observation_space` describes it


class JaxEnv(Protocol):
    """An environment of pure functions, which `jax.jit` and `jax.vmap` can transform.

    Both functions return arrays of the same shapes at every call. They are called for one
    environment; members and environments are mapped over.
    """

    observation_space: spaces.Space  # Box, Discrete, MultiDiscrete, MultiBinary, or Dict, Tuple
    action_space: spaces.Space  # Discrete, MultiDiscrete, or a Box with finite bounds

    def reset(self, key: Array) -> tuple[State, Observation]:
        """Begin an episode."""
        ...

    def step(
        self, key: Array, state: State, action: Array
    ) -> tuple[State, Observation, Array, Array, Array]:
        """Take one step; the caller resets after the last one.

        Args:
            key: for all randomness of this step.
            action: an integer, integers, or float32 within the bounds, as `action_space` has it.

        Returns:
            The next state and observation, the reward, whether the environment ended (no value
            after it), and whether a time limit cut the episode, all scalars.
        """
        ...


MakeJaxTask = Callable[[str, EnvSettings], JaxEnv]  # variant, settings

JAX_TASKS: Registry[MakeJaxTask] = Registry()


def register_jax_task(name: str) -> Callable[[MakeJaxTask], MakeJaxTask]:
    """Return a decorator that registers a function as the maker of a task.

    The time limit and the action repeat of the settings are applied to what it returns.

    Args:
        name: the part of the task's name before the first colon. The part after it, '' if there
            is none, is the maker's `variant`.
    """
    return JAX_TASKS.register(name)


def make_jax_env(task: str, settings: EnvSettings) -> JaxEnv:
    """Make the environment of a task in `JAX_TASKS`.

    Raises:
        UsageError: no such task is a JAX program, or the variant is unknown.
    """
    name, _, variant = task.partition(":")
    return lookup(JAX_TASKS, name, "the task of a JAX program")(variant, settings)


def is_jax_env(value: Any) -> bool:
    """Return whether an object has what `JaxEnv` asks for, and is no gymnasium environment."""
    if isinstance(value, (gymnasium.Env, gymnasium.vector.VectorEnv, type)):
        return False
    names = ("reset", "step", "observation_space", "action_space")
    return all(hasattr(value, name) for name in names) and callable(value.step)
