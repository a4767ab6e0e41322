"""The DeepMind Control suite (Tassa et al. 2018), as vectors or as pixels, through dm_control."""

import pickle
import zlib
from types import ModuleType
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.envs.registry import EnvSettings, limit_and_repeat, register_task
from dreamer_jax.envs.rendering import choose_renderer, no_renderer
from dreamer_jax.envs.wrappers import Reset, Step
from dreamer_jax.errors import require, unknown

PUBLISHED_NAMES = {"cup_catch": "ball_in_cup_catch"}  # names in the figures of Hafner et al. 2020
CAMERAS = {"quadruped": 2}  # by domain; 0 for all others


def _suite() -> ModuleType:
    require("dm_control", extra="dmc")
    choose_renderer()
    try:
        from dm_control import suite
    except (AttributeError, ImportError, OSError, RuntimeError) as error:
        raise no_renderer(error) from error  # dm_control loads the renderer on import
    return suite


def find_task(name: str) -> tuple[str, str]:
    """Return domain and task of '<domain>_<task>', or of a key of `PUBLISHED_NAMES`."""
    tasks = {"_".join(pair): pair for pair in _suite().ALL_TASKS}
    tasks |= {published: tasks[own] for published, own in PUBLISHED_NAMES.items()}
    if name not in tasks:
        raise unknown("DeepMind Control task", name, tasks)
    return tasks[name]


class Control(gymnasium.Env):
    """One task with its own observations.

    Observation: the task's dictionary of vectors, float64. Action: float64 [A] within the bounds
    of the task's specification, [-1, 1] in most tasks and up to 1.1 in quadruped's. An episode is
    1000 steps and ends truncated, or terminal where the task ends it with discount 0.

    Args:
        task: see `find_task`.
        seed: the task's seed until `reset(seed=...)`. Passing the same seed to both avoids loading
            the task twice.

    Raises:
        UsageError: the task is unknown, or dm_control is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}
    render_mode = "rgb_array"
    exact_state = True  # `get_state` and `set_state` need no trial

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

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
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
        """Return the view of the task's camera, uint8 [size, size, 3]."""
        try:
            # `physics.render` makes a camera with a scene for each picture, in 1 to 2 ms.
            if size not in self._cameras:
                from dm_control.mujoco.engine import Camera

                number = CAMERAS.get(self.domain, 0)
                self._cameras[size] = Camera(self._env.physics, size, size, camera_id=number)
            return self._cameras[size].render().copy()  # the camera draws into one buffer
        except Exception as error:  # OpenGL, MuJoCo and dm_control raise errors of their own
            raise no_renderer(error) from error

    def render(self) -> np.ndarray:
        """Return a larger picture, uint8 [256, 256, 3]."""
        return self.picture(256)

    def get_state(self) -> dict[str, Any]:
        """Return everything that the future depends on, as a picklable dictionary."""
        # The state of the physics would not suffice: tasks change their models, and solvers are
        # warm-started.
        return {"task": self.name, "env": zlib.compress(pickle.dumps(self._env), level=1)}

    def set_state(self, state: dict[str, Any]) -> None:
        """Resume exactly from a state that `get_state` returned for the same task."""
        if state["task"] != self.name:
            raise ValueError(f"a state of {state['task']!r} cannot be restored in {self.name!r}")
        self._replace(pickle.loads(zlib.decompress(state["env"])))
        self._untouched_seed = None

    def close(self) -> None:
        """Free the physics and the renderer's buffers; the environment is unusable afterwards."""
        self._replace(None)

    def _load(self, seed: int) -> None:
        kwargs = {"random": np.random.RandomState(np.random.MT19937(seed))}  # seeds of any size
        self._replace(_suite().load(self.domain, self.task, task_kwargs=kwargs))
        self._untouched_seed: int | None = seed

    def _replace(self, env: Any) -> None:
        old, self._env = self._env, env
        self._cameras: dict[int, Any] = {}  # by the size of their pictures
        if old is not None:
            old.physics.free()


class Pixels(gymnasium.ObservationWrapper):
    """A wrapper that adds the view of the task's camera to the observation, as entry 'image'.

    Repeat actions inside this wrapper, not around it, so that only the pictures that are returned
    are drawn.

    Args:
        env: a `Control`, possibly wrapped.
        size: height and width of the image, in pixels.

    Raises:
        UsageError: no renderer works on this machine; the message says what to install.
    """

    def __init__(self, env: gymnasium.Env, size: int) -> None:
        super().__init__(env)
        self._size = size
        image = spaces.Box(0, 255, (size, size, 3), np.uint8)
        self.observation_space = spaces.Dict({**env.observation_space.spaces, "image": image})
        env.unwrapped.picture(size)

    def observation(self, observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return observation | {"image": self.unwrapped.picture(self._size)}


@register_task("dmc_proprio")
def make_vectors(name: str, seed: int, settings: EnvSettings) -> gymnasium.Env:
    """Build 'dmc_proprio:<domain>_<task>', which observes the task's vectors and renders nothing.

    An episode is limited to 1000 frames, which cannot be raised.
    """
    return limit_and_repeat(Control(name, seed=seed), settings)


@register_task("dmc")
def make_pixels(name: str, seed: int, settings: EnvSettings) -> gymnasium.Env:
    """Build 'dmc:<domain>_<task>', such as 'dmc:walker_walk': 'image' and the task's vectors."""
    return Pixels(make_vectors(name, seed, settings), settings.size)
