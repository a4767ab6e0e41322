"""Evaluate every member: greedy actions, one environment per episode."""

import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import gymnasium
import numpy as np

from dreamer_jax.config import sweep
from dreamer_jax.envs.vector import FaultLimit, FaultTolerantVector, OnFault
from dreamer_jax.errors import UsageError
from dreamer_jax.report.video import episode_gif
from dreamer_jax.run.driver import to_env_actions
from dreamer_jax.run.identity import describe_maker
from dreamer_jax.run.load import read_saved
from dreamer_jax.run.setup import MakeEnv, RunSetup
from dreamer_jax.seeding import EVAL_KEY, EVAL_STREAM, member_keys
from dreamer_jax.types import Params

log = logging.getLogger(__name__)


class Episodes(NamedTuple):
    """The outcome of complete greedy episodes."""

    returns: np.ndarray  # [M, episodes]
    lengths: np.ndarray  # [M, episodes] agent steps
    cut: np.ndarray  # [M, episodes] bool, cut after `config.eval_steps`
    frames: list[list[np.ndarray]]  # per member, uint8 images of its first episode


def play_episodes(
    setup: RunSetup,
    params: Mapping[str, Params],
    episodes: int,
    *,
    on_fault: OnFault,
    workers: int = 0,
    check: Callable[[], None] = lambda: None,
    frames: bool = False,
) -> Episodes:
    """Play `episodes` complete greedy episodes per member, `config.env.eval_envs` at a time.

    Every episode has its own environment and seed, the same in every evaluation, so short episodes
    do not count more often than long ones. The number at a time changes no result: the policy's
    noise always has the shape of all episodes, and begins anew with those that are played next. If
    an environment fails, its episode starts again.

    Args:
        params: by group, [M, ...].
        episodes: number of episodes per member.
        on_fault: called with m * episodes + e and the text of each failure in member m's episode e.
        workers: number of processes that step the environments; 0 for this one.
        check: called before every step; may raise.
        frames: keep the images of each member's first episode.
    """
    members, config = len(setup.seeds), setup.config
    rows = members * episodes
    rounds = -(-rows // config.env.eval_envs)
    count = -(-rows // rounds)
    done, cut = np.zeros(rows, bool), np.zeros(rows, bool)
    returns, lengths = np.zeros(rows), np.zeros(rows, np.int64)
    kept: list[list[np.ndarray]] = [[] for _ in range(members)]
    make_row = setup.row_maker(EVAL_STREAM, episodes)

    def maker(chosen: slice) -> Callable[[int, int], gymnasium.Env]:
        first = chosen.start
        return lambda slot, generation: make_row(first + slot, generation)

    chosen = slice(0, count)
    vector = FaultTolerantVector(
        maker(chosen),
        count,
        workers=min(workers, count),
        timeout=config.env.timeout,
        on_fault=lambda slot, text: on_fault(chosen.start + slot, text),
    )
    with contextlib.closing(vector):
        image = next((k for k, s in vector.observation_space.items() if len(s.shape) == 3), None)
        shapes = setup.agent.obs_shapes.items()
        while not done.all():
            if done.any():
                start = min(chosen.stop, rows - count)
                chosen = slice(start, start + count)
                vector.renew(maker(chosen))
            running = ~done[chosen]
            is_first = np.ones(rows, bool)
            carry = setup.fns.init_policy(member_keys(setup.seeds, EVAL_KEY), episodes)
            obs = vector.reset(running)
            while True:
                check()
                if frames and image is not None:
                    for slot in np.flatnonzero(running):
                        member, episode = divmod(chosen.start + int(slot), episodes)
                        if episode == 0:
                            kept[member].append(obs[image][slot].copy())
                if not running.any():
                    break
                # New arrays, because the next step may overwrite `obs` while JAX reads it.
                grid = {key: np.zeros((rows, *shape), dtype) for key, (shape, dtype) in shapes}
                for key, entry in grid.items():
                    entry[chosen] = obs[key]
                grid = {k: x.reshape(members, episodes, *x.shape[1:]) for k, x in grid.items()}
                first = is_first.reshape(members, episodes)
                carry, action = setup.fns.greedy_step(params, carry, grid, first)
                action = to_env_actions(np.asarray(action), setup.action.discrete)
                action = action.reshape(rows, *action.shape[2:])[chosen]
                result = vector.step(action, running)
                returns[chosen] += np.where(running, result.reward, 0)
                lengths[chosen] += running
                cut[chosen] |= running & ~result.is_last & (lengths[chosen] >= config.eval_steps)
                restarted = result.failed & running
                running &= ~result.is_last & ~(cut[chosen] & ~restarted)
                for row in chosen.start + np.flatnonzero(restarted):
                    returns[row], lengths[row], cut[row] = 0, 0, False
                    if row % episodes == 0:
                        kept[row // episodes].clear()
                is_first[chosen] = restarted
                obs = vector.reset(restarted) if restarted.any() else result.obs
            done[chosen] = True
    grids = (x.reshape(members, episodes) for x in (returns, lengths, cut))
    return Episodes(*grids, kept)


def summarize(setup: RunSetup, played: Episodes) -> list[dict]:
    """Summarize the episodes of `play_episodes` in one record per member."""
    labels, (returns, lengths, cut, _) = sweep.member_labels(setup.config), played
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
        | ({"eval_cut": int(cut[member].sum())} if cut[member].any() else {})
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
        `environment`, `env_step`, `frame`, `members`, a record per member with its mean return,
        and with `video` the paths of the `videos`.

    Raises:
        FileNotFoundError: there is no run, or no checkpoint yet.
        UsageError: `episodes` is out of range, or there is no such member or checkpoint.
    """
    if episodes < 1:
        raise UsageError(f"episodes is {episodes}; allowed: at least 1")
    saved = read_saved(workdir, None if member is None else [member], make_env, step)
    setup = saved.setup
    limit = FaultLimit(setup.config.env.max_faults, lambda row, text: log.warning("%s", text))
    env = setup.config.env
    workers = env.workers if env.eval_workers is None else env.eval_workers
    played = play_episodes(
        setup, saved.params, episodes, on_fault=limit, workers=workers, frames=video
    )
    records = zip(saved.numbers, summarize(setup, played), strict=True)
    videos = []
    for number, images in zip(saved.numbers, played.frames, strict=True):
        if images:
            name = f"eval_{saved.env_step:09d}_member{number}.gif"
            videos.append(str(saved.work.videos / name))
            episode_gif(np.stack(images), videos[-1])
    return {
        "environment": describe_maker(setup.identity.source, setup.identity.name),
        "env_step": saved.env_step,
        "frame": saved.env_step * setup.config.env.action_repeat,
        "members": [record | {"member": number} for number, record in records],
    } | ({"videos": videos} if video else {})
