"""The DeepMind Control suite (Tassa et al. 2018) through dm_control, as vectors or with pixels."""

import pickle
import zlib
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.envs.rendering import choose_renderer, no_renderer
from dreamer_jax.errors import require, unknown

# The 20 tasks of Hafner et al. 2020, under the names of its figures.
PAPER_TASKS = (
    "acrobot_swingup",
    "cartpole_balance",
    "cartpole_balance_sparse",
    "cartpole_swingup",
    "cartpole_swingup_sparse",
    "cheetah_run",
    "cup_catch",
    "finger_spin",
    "finger_turn_easy",
    "finger_turn_hard",
    "hopper_hop",
    "hopper_stand",
    "pendulum_swingup",
    "quadruped_run",
    "quadruped_walk",
    "reacher_easy",
    "reacher_hard",
    "walker_run",
    "walker_stand",
    "walker_walk",
)
# Walking is in Hafner et al. 2021, Appendix A.
HUMANOID_TASKS = ("humanoid_run", "humanoid_stand", "humanoid_walk")
PUBLISHED_NAMES = {"cup_catch": "ball_in_cup_catch"}
CAMERAS = {"quadruped": 2}  # by domain; 0 for every other

Step = tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]


def _suite() -> ModuleType:
    require("dm_control", extra="dmc")
    choose_renderer()
    try:
        from dm_control import suite
    except (AttributeError, ImportError, OSError, RuntimeError) as error:
        raise no_renderer(error) from error  # dm_control loads the renderer when it is imported
    return suite


def find_task(name: str) -> tuple[str, str]:
    """Domain and task of the suite.

    Args:
        name: '<domain>_<task>' of any task of the suite, or one of `PAPER_TASKS`.

    Raises:
        UsageError: there is no such task, or dm_control is not installed.
    """
    tasks = {"_".join(pair): pair for pair in _suite().ALL_TASKS}
    try:
        return tasks[PUBLISHED_NAMES.get(name, name)]
    except KeyError:
        raise unknown("DeepMind Control task", name, [*tasks, *PUBLISHED_NAMES]) from None


class Control(gymnasium.Env):
    """One task, seen through its own observations.

    Observation: the task's dictionary of vectors, float64. Action: float64 [A] within the bounds
    of the task's specification, [-1, 1] in most tasks and up to 1.1 in quadruped's. An episode is
    1000 steps and ends truncated; where a task itself ends one with discount 0, it is terminal.

    Args:
        task: see `find_task`.
        seed: until `reset(seed=...)`. Giving the same one in both places saves loading the task a
            second time.

    Raises:
        UsageError: there is no such task, or dm_control is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}
    render_mode = "rgb_array"

    def __init__(self, task: str, *, seed: int = 0) -> None:
        self.domain, self.task = find_task(task)
        self.name = f"{self.domain}_{self.task}"
        self._env: Any = None
        self._load(seed)
        action = self._env.action_spec()
        low, high = (np.broadcast_to(b, action.shape) for b in (action.minimum, action.maximum))
        self.action_space = spaces.Box(low, high, dtype=np.float64)
        entries = self._env.observation_spec().items()
        self.observation_space = spaces.Dict(
            {key: spaces.Box(-np.inf, np.inf, spec.shape, np.float64) for key, spec in entries}
        )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None and seed != self._untouched_seed:
            self._load(seed)
        self._untouched_seed = None
        return dict(self._env.reset().observation), {}

    def step(self, action: np.ndarray) -> Step:
        result = self._env.step(action)
        terminated = result.last() and result.discount == 0.0
        truncated = result.last() and not terminated
        return dict(result.observation), result.reward, terminated, truncated, {}

    def picture(self, size: int) -> np.ndarray:
        """What the task's camera sees now, uint8 [size, size, 3].

        Raises:
            UsageError: no renderer works here; the message says what to install.
        """
        try:
            return self._env.physics.render(size, size, camera_id=CAMERAS.get(self.domain, 0))
        except Exception as error:  # of OpenGL's, MuJoCo's or dm_control's own kinds
            raise no_renderer(error) from error

    def render(self) -> np.ndarray:
        """A larger picture, uint8 [256, 256, 3]."""
        return self.picture(256)

    def get_state(self) -> dict[str, Any]:
        """All that the future depends on, as a picklable dictionary.

        It has the whole dm_control environment in it, model and textures included. The state of
        the physics alone would not do: tasks change their models, and solvers are warm-started.
        """
        pickled = pickle.dumps(self._env)
        return {"task": self.name, "env": zlib.compress(pickled, level=1)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on bit-identically from where `get_state` was called.

        Raises:
            ValueError: the state is of another task.
        """
        if state["task"] != self.name:
            raise ValueError(f"a state of {state['task']!r} cannot be restored in {self.name!r}")
        self._replace(pickle.loads(zlib.decompress(state["env"])))
        self._untouched_seed = None

    def close(self) -> None:
        """Free the physics and the renderer's buffers; nothing works afterwards."""
        self._replace(None)

    def _load(self, seed: int) -> None:
        kwargs = {"random": np.random.RandomState(np.random.MT19937(seed))}  # seeds of any size
        self._replace(_suite().load(self.domain, self.task, task_kwargs=kwargs))
        self._untouched_seed: int | None = seed

    def _replace(self, env: Any) -> None:
        old, self._env = self._env, env
        if old is not None:
            old.physics.free()


class Pixels(gymnasium.ObservationWrapper):
    """Adds the task's camera to the observation of a wrapped `Control`, as entry 'image'.

    Args:
        env: a `Control`, which may be wrapped. Repeat actions inside of this wrapper, not around
            it, so that only pictures that are seen are drawn.
        size: height and width of the image, in pixels.

    Raises:
        UsageError: no renderer works here; the message says what to install.
    """

    def __init__(self, env: gymnasium.Env, size: int) -> None:
        super().__init__(env)
        self._size = size
        image = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.observation_space = spaces.Dict({**env.observation_space.spaces, "image": image})
        env.unwrapped.picture(size)

    def observation(self, observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The entries of the task, and 'image', uint8 [size, size, 3]."""
        return observation | {"image": self.unwrapped.picture(self._size)}
