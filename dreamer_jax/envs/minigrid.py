"""MiniGrid (Chevalier-Boisvert et al. 2023): grid worlds, as pictures of what the agent sees."""

import os

import gymnasium
from gymnasium.wrappers import FilterObservation

from dreamer_jax.errors import require, unknown


def make_minigrid(env_id: str, *, size: int, time_limit: int) -> gymnasium.Env:
    """A MiniGrid environment in pixels.

    Observation: 'image', uint8 RGB of the fields in the agent's view (7 x 7 in most), at least
    `size` pixels on each axis, and 'direction', which way the agent faces. The mission, a text, is
    left out: tasks that name something else in every episode cannot be solved. Actions: 7. The
    package itself truncates an episode, each environment at a time of its own.

    Args:
        env_id: as registered by the package, such as 'MiniGrid-DoorKey-5x5-v0'.
        size: least height and width of the image, in pixels.
        time_limit: steps after which an episode is truncated earlier; 0 for none.

    Raises:
        UsageError: there is no such environment, or the package is not installed.
    """
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")  # printed on import otherwise
    require("minigrid", extra="minigrid")
    from minigrid.wrappers import RGBImgPartialObsWrapper

    known = [name for name in gymnasium.registry if name.startswith(("MiniGrid-", "BabyAI-"))]
    if env_id not in known:
        raise unknown("MiniGrid environment", env_id, known)
    env = gymnasium.make(
        env_id,
        max_episode_steps=time_limit or None,
        render_mode="rgb_array",
        disable_env_checker=True,
    )
    # The agent's view at a whole number of pixels a field, to be shrunk to the size and not grown.
    tile = -(-size // env.unwrapped.agent_view_size)
    env = RGBImgPartialObsWrapper(env, tile_size=tile)
    return FilterObservation(env, ("image", "direction"))
