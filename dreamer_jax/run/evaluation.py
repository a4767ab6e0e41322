"""Evaluate every member: greedy actions, one environment per episode."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from dreamer_jax.config import sweep
from dreamer_jax.envs.vector import FaultLimit, OnFault
from dreamer_jax.errors import UsageError
from dreamer_jax.report.video import episode_gif
from dreamer_jax.run.driver import to_env_actions
from dreamer_jax.run.load import read_saved
from dreamer_jax.run.setup import MakeEnv, RunSetup
from dreamer_jax.seeding import EVAL_KEY, EVAL_STREAM, member_keys
from dreamer_jax.types import Params

log = logging.getLogger(__name__)


def play_episodes(
    setup: RunSetup,
    params: Mapping[str, Params],
    episodes: int,
    *,
    on_fault: OnFault,
    check: Callable[[], None] = lambda: None,
    frames: bool = False,
) -> tuple[np.ndarray, np.ndarray, list[list[np.ndarray]]]:
    """Play `episodes` complete greedy episodes per member, all at once.

    Every episode has its own environment and seed, the same in every evaluation, so short episodes
    do not count more often than long ones. If an environment fails, its episode starts again.

    Args:
        params: by group, [M, ...].
        episodes: number of episodes per member.
        on_fault: as in `RunSetup.make_vector`.
        check: called before every step; may raise.
        frames: keep the images of each member's first episode.

    Returns:
        returns [M, episodes], lengths [M, episodes] in agent steps, and per member a list of
        uint8 frames (empty without `frames` or images).
    """
    members, keys = len(setup.seeds), setup.obs_keys
    vector = setup.make_vector(EVAL_STREAM, episodes, on_fault)
    carry = setup.fns.init_policy(member_keys(setup.seeds, EVAL_KEY), episodes)
    rows = members * episodes
    running, is_first = np.ones(rows, bool), np.ones(rows, bool)
    returns, lengths = np.zeros(rows), np.zeros(rows, np.int64)
    kept: list[list[np.ndarray]] = [[] for _ in range(members)]
    image = next((k for k, s in vector.observation_space.items() if len(s.shape) == 3), None)
    with contextlib.closing(vector):
        obs = vector.reset()
        while True:
            check()
            if frames and image is not None:
                for member in np.flatnonzero(running[::episodes]):
                    kept[member].append(obs[image][member * episodes].copy())
            if not running.any():
                return returns.reshape(members, -1), lengths.reshape(members, -1), kept
            # Copies, because the next step may overwrite `obs` while JAX reads it, see `Driver`.
            grid = {k: obs[k].copy().reshape(members, episodes, *obs[k].shape[1:]) for k in keys}
            first = is_first.reshape(members, episodes)
            carry, action = setup.fns.greedy_step(params, carry, grid, first)
            action = to_env_actions(np.asarray(action), setup.action)
            result = vector.step(action.reshape(rows, *action.shape[2:]))
            returns += np.where(running, result.reward, 0)
            lengths += running
            running &= ~result.is_last
            restarted = result.failed & running
            returns[restarted], lengths[restarted] = 0, 0
            for member in np.flatnonzero(restarted[::episodes]):
                kept[member].clear()
            # Finished environments play on without effect: the vector steps all its rows.
            is_first = result.is_last | result.failed
            obs = vector.reset(is_first) if is_first.any() else result.obs


def summarize(setup: RunSetup, returns: np.ndarray, lengths: np.ndarray) -> list[dict]:
    """Summarize the episodes of `play_episodes` in one record per member."""
    labels = sweep.member_labels(setup.config)
    return [
        {
            "member": member,
            "seed": seed,
            **label,
            "eval_return": float(returns[member].mean()),
            "eval_return_std": float(returns[member].std()),
            "eval_length": float(lengths[member].mean()),
            "eval_episodes": int(returns.shape[1]),
        }
        for member, (seed, label) in enumerate(zip(setup.seeds, labels, strict=True))
    ]


def evaluate(
    workdir: str | Path,
    *,
    episodes: int = 10,
    member: int | None = None,
    step: int | None = None,
    video: bool = False,
    make_env: MakeEnv | None = None,
) -> dict:
    """Evaluate the members of a run, which a process may be training meanwhile.

    Args:
        workdir: the run's work directory.
        episodes: number of episodes per member, at least 1.
        member: the number of the only member to evaluate; None for all.
        step: env step of the checkpoint; None for the newest intact one.
        video: write one episode per member to `videos/`.
        make_env: as given to `train`.

    Returns:
        `env_step`, `frame`, `members`, a record per member with its mean return, and with `video`
        the paths of the `videos`.

    Raises:
        FileNotFoundError: there is no run, or no checkpoint yet.
        UsageError: `episodes` is out of range, or there is no such member or checkpoint.
    """
    if episodes < 1:
        raise UsageError(f"episodes is {episodes}; allowed: at least 1")
    saved = read_saved(workdir, None if member is None else [member], make_env, step)
    setup = saved.setup
    limit = FaultLimit(setup.config.env.max_faults, lambda row, text: log.warning("%s", text))
    returns, lengths, frames = play_episodes(
        setup, saved.params, episodes, on_fault=limit, frames=video
    )
    records = zip(saved.numbers, summarize(setup, returns, lengths), strict=True)
    videos = []
    for number, images in zip(saved.numbers, frames, strict=True):
        if images:
            name = f"eval_{saved.env_step:09d}_member{number}.gif"
            videos.append(str(saved.work.videos / name))
            episode_gif(np.stack(images), videos[-1])
    return {
        "env_step": saved.env_step,
        "frame": saved.env_step * setup.config.env.action_repeat,
        "members": [record | {"member": number} for number, record in records],
    } | ({"videos": videos} if video else {})
