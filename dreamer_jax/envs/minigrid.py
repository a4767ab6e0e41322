"""MiniGrid (Chevalier-Boisvert et al. 2023), grid worlds as pictures of the agent's view."""

import os

import gymnasium
from gymnasium.wrappers import FilterObservation

from dreamer_jax.envs.registry import EnvSettings, register_task
from dreamer_jax.envs.wrappers import ActionRepeat
from dreamer_jax.errors import require, unknown


@register_task("minigrid")
def make_minigrid(env_id: str, seed: int, settings: EnvSettings) -> gymnasium.Env:
    """Build 'minigrid:<id>', such as 'minigrid:MiniGrid-DoorKey-5x5-v0', in pixels.

    Observation: 'image', uint8 RGB of the fields in the agent's view (7 x 7 in most environments),
    at least `settings.size` pixels on each axis, and 'direction', the direction that the agent
    faces. The mission, a text, is left out, so tasks whose goal it names cannot be solved.
    Actions: 7. Every environment has a time limit of its own.

    Raises:
        UsageError: the environment is unknown, or the package is not installed.
    """
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # printed on import otherwise
    require("minigrid", extra="minigrid")
    from minigrid.wrappers import RGBImgPartialObsWrapper

    known = [name for name in gymnasium.registry if name.startswith(("MiniGrid-", "BabyAI-"))]
    if env_id not in known:
        raise unknown("MiniGrid environment", env_id, known)
    env = gymnasium.make(
        env_id,
        max_episode_steps=settings.time_limit or None,
        render_mode="rgb_array",
        disable_env_checker=True,
    )
    # An integer number of pixels per field, large enough that `adapt` shrinks the image.
    tile = -(-settings.size // env.unwrapped.agent_view_size)
    env = RGBImgPartialObsWrapper(env, tile_size=tile)
    env = FilterObservation(env, ("image", "direction"))
    return ActionRepeat(env, repeat=settings.action_repeat)
