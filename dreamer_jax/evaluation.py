"""Evaluation of every member: greedy actions, one environment per episode."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dreamer_jax.checkpoint import Checkpoints
from dreamer_jax.driver import EVAL_STREAM
from dreamer_jax.members import member_keys
from dreamer_jax.names import UsageError
from dreamer_jax.run import EVAL_KEY, MakeEnv, Parts, build, to_env_actions
from dreamer_jax.types import Params
from dreamer_jax.workdir import WorkDir


def play_episodes(
    parts: Parts, params: Mapping[str, Params], episodes: int, *, frames: bool = False
) -> tuple[np.ndarray, np.ndarray, list[list[np.ndarray]]]:
    """Play `episodes` whole greedy episodes per member, all at once.

    Every episode has an environment and a seed of its own, the same in every evaluation, so a
    short episode is never counted more often than a long one.

    Args:
        params: parameters by group, [M, ...]; frames: keep the images of each first episode.

    Returns:
        returns [M, episodes], lengths [M, episodes] in agent steps, and per member a list of
        uint8 frames (empty without `frames` or images).
    """
    members = len(parts.seeds)
    vector = parts.make_vector(EVAL_STREAM, episodes)
    carry = parts.fns.init_policy(member_keys(parts.seeds, EVAL_KEY), episodes)
    rows = members * episodes
    running, is_first = np.ones(rows, bool), np.ones(rows, bool)
    returns, lengths = np.zeros(rows), np.zeros(rows, np.int64)
    kept: list[list[np.ndarray]] = [[] for _ in range(members)]
    image = next((k for k, s in vector.observation_space.items() if len(s.shape) == 3), None)
    obs = vector.reset()
    try:
        while True:
            if frames and image is not None:
                for member in np.flatnonzero(running[::episodes]):
                    kept[member].append(obs[image][member * episodes].copy())
            if not running.any():
                return returns.reshape(members, -1), lengths.reshape(members, -1), kept
            grid = {k: obs[k].reshape(members, episodes, *obs[k].shape[1:]) for k in parts.obs_keys}
            first = is_first.reshape(members, episodes)
            carry, action = parts.fns.greedy_step(params, carry, grid, first)
            action = to_env_actions(np.asarray(action), parts.discrete)
            result = vector.step(action.reshape(rows, *action.shape[2:]))
            returns += np.where(running, result.reward, 0)
            lengths += running
            running &= ~result.is_last
            # Environments that are done play on unseen: the vector steps all its rows.
            is_first = result.is_last
            obs = vector.reset(is_first) if is_first.any() else result.obs
    finally:
        vector.close()


def summarize(seeds: list[int], returns: np.ndarray, lengths: np.ndarray) -> list[dict]:
    """One record per member with what it scored."""
    return [
        {
            "member": member,
            "seed": seed,
            "eval_return": float(returns[member].mean()),
            "eval_return_std": float(returns[member].std()),
            "eval_length": float(lengths[member].mean()),
            "eval_episodes": int(returns.shape[1]),
        }
        for member, seed in enumerate(seeds)
    ]


def evaluate(
    workdir: str | Path,
    *,
    episodes: int = 10,
    video: bool = False,
    make_env: MakeEnv | None = None,
) -> dict:
    """Evaluate the newest checkpoint of a run.

    Args:
        workdir: of the run; episodes: per member, at least 1.
        video: write one episode per member to `videos/`; make_env: as given to `train`.

    Returns:
        `env_step`, `frame`, and `members`: a record per member with its mean return.

    Raises:
        FileNotFoundError: there is no run, or no checkpoint yet.
        UsageError: `episodes` is out of range.
    """
    if episodes < 1:
        raise UsageError(f"episodes is {episodes}; allowed: at least 1")
    work = WorkDir(workdir)
    parts = build(work.read_config(), make_env)
    checkpoints = Checkpoints(work.checkpoints, parts.config.checkpoint_keep)
    step = checkpoints.latest()
    if step is None:
        raise FileNotFoundError(f"no checkpoint in {work.checkpoints} yet")
    state = checkpoints.restore(step, parts.saved_shapes())[0]["state"]
    checkpoints.close()
    returns, lengths, frames = play_episodes(parts, state.params, episodes, frames=video)
    summary = {
        "env_step": step,
        "frame": step * parts.config.env.action_repeat,
        "members": summarize(parts.seeds, returns, lengths),
    }
    if video:
        summary["videos"] = _write_videos(work, step, frames)
    return summary


def _write_videos(work: WorkDir, step: int, frames: list[list[np.ndarray]]) -> list[str]:
    from dreamer_jax.video import episode_gif

    paths = []
    for member, images in enumerate(frames):
        if images:
            paths.append(str(work.videos / f"eval_{step:09d}_member{member}.gif"))
            episode_gif(np.stack(images), paths[-1])
    return paths
