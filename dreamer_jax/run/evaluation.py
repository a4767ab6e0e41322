"""Evaluate every member: greedy actions, one environment per episode."""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dreamer_jax.config import sweep
from dreamer_jax.envs.film import filmed
from dreamer_jax.envs.vector import FaultLimit, OnFault
from dreamer_jax.errors import UsageError
from dreamer_jax.report.video import episode_gif
from dreamer_jax.run.driver import to_env_actions
from dreamer_jax.run.identity import describe_maker
from dreamer_jax.run.load import read_saved
from dreamer_jax.run.setup import AnyVector, MakeEnv, RunSetup, about_wrappers
from dreamer_jax.seeding import EVAL_KEY, EVAL_STREAM, env_seed, member_keys
from dreamer_jax.types import Params, PolicyCarry

log = logging.getLogger(__name__)


class Episodes(NamedTuple):
    """The outcome of complete greedy episodes."""

    returns: np.ndarray  # [M, episodes]
    lengths: np.ndarray  # [M, episodes] agent steps
    cut: np.ndarray  # [M, episodes] bool, cut after `config.eval_steps`
    values: np.ndarray  # [M, episodes], of the first state; NaN without a critic
    discounted: np.ndarray  # [M, episodes], returns that the critic should predict there
    reward_errors: np.ndarray  # [M, episodes], squared errors of predicted rewards, summed
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
    shape = (len(setup.seeds), episodes)
    rows = shape[0] * episodes
    count = -(-rows // -(-rows // setup.config.env.eval_envs))
    played = Episodes(
        returns=np.zeros(shape),
        lengths=np.zeros(shape, np.int64),
        cut=np.zeros(shape, bool),
        values=np.full(shape, np.nan),
        discounted=np.zeros(shape),
        reward_errors=np.zeros(shape),
        frames=[[] for _ in setup.seeds],
    )
    make_row = setup.row_maker(EVAL_STREAM, episodes)

    def maker(first: int) -> Callable[[int, int], Any]:
        return lambda slot, generation: make_row(first + slot, generation)

    first = 0
    vector = setup.open_vector(
        maker(first),
        count,
        lambda slot, text: on_fault(first + slot, text),
        workers=min(workers, count),
    )
    with contextlib.closing(vector):
        for begin in range(0, rows, count):
            if begin:
                # The last ones include some that have been played, if there are too few others.
                first = min(begin, rows - count)
                vector.renew(maker(first))
            running = np.arange(first, first + count) >= begin
            _play(setup, params, vector, first, running, played, check, frames=frames)
    return played


def _play(
    setup: RunSetup,
    params: Mapping[str, Params],
    vector: AnyVector,
    first: int,
    running: np.ndarray,
    played: Episodes,
    check: Callable[[], None],
    *,
    frames: bool,
) -> None:
    """Play the episodes numbered from `first` that are `running` [N], and record them."""
    episodes, chosen = played.returns.shape[1], slice(first, first + len(running))
    views = (table.reshape(-1)[chosen] for table in played[:6])
    returns, lengths, cut, values, discounted, reward_errors = views
    gammas = [float(hypers.discount) for hypers in sweep.member_hypers(setup.config)]
    gamma = np.repeat(gammas, episodes)[chosen]
    space = vector.observation_space
    image = next((key for key, box in space.items() if box.dtype == np.uint8), None)
    filmed = {
        slot: played.frames[(first + slot) // episodes]
        for slot in np.flatnonzero(running)
        if frames and image is not None and (first + slot) % episodes == 0
    }
    carry = setup.fns.init_policy(member_keys(setup.seeds, EVAL_KEY), episodes)
    is_first, obs = np.ones(len(running), bool), vector.reset(running)
    reached = np.zeros(len(running), bool)  # rows whose observation the last step reached
    reward = np.zeros(len(running))  # of that step
    while True:
        check()
        for slot, images in filmed.items():
            if running[slot]:
                images.append(obs[image][slot].copy())
        if not (running | reached).any():
            return
        carry, action = _act(setup, params, carry, obs, is_first, chosen, episodes)
        if reached.any():
            predicted = np.asarray(setup.fns.predict_reward(params, carry)).reshape(-1)[chosen]
            reward_errors += np.where(reached, np.square(predicted - reward), 0)
        if not running.any():  # the last states were only reached to predict their rewards
            return
        if is_first.any():
            predicted = setup.fns.value(params, carry)
            if predicted is not None:
                new = is_first & running
                values[new] = np.asarray(predicted).reshape(-1)[chosen][new]
        result = vector.step(action, running)
        returns += np.where(running, result.reward, 0)
        lengths += running
        reward = np.asarray(setup.agent.wm.reward_transform(result.reward))
        discounted += np.where(running, gamma**lengths * reward, 0)
        is_first = result.failed & running
        reached = running & ~is_first
        for total in (returns, lengths, discounted, reward_errors):
            total[is_first] = 0
        for slot, images in filmed.items():
            if is_first[slot]:
                images.clear()
        cut |= running & ~result.is_last & (lengths >= setup.config.eval_steps)
        running = running & ~result.is_last & ~cut
        obs = vector.reset(is_first) if is_first.any() else result.obs


def _act(
    setup: RunSetup,
    params: Mapping[str, Params],
    carry: PolicyCarry,
    obs: Mapping[str, np.ndarray],
    is_first: np.ndarray,
    chosen: slice,
    episodes: int,
) -> tuple[PolicyCarry, np.ndarray]:
    """Choose greedy actions in the chosen rows of all episodes; the others see zeros."""
    shape = (len(setup.seeds), episodes)
    first, grid = np.ones(shape, bool), {}
    first.reshape(-1)[chosen] = is_first
    for key, (entry, dtype) in setup.agent.obs_shapes.items():
        # A new array, because the next step may overwrite `obs` while JAX reads it.
        grid[key] = np.zeros((*shape, *entry), dtype)
        grid[key].reshape(-1, *entry)[chosen] = obs[key]
    carry, action = setup.fns.greedy_step(params, carry, *setup.placement.put((grid, first)))
    action = to_env_actions(np.asarray(action), setup.action)
    return carry, action.reshape(-1, *action.shape[2:])[chosen]


def summarize(setup: RunSetup, played: Episodes) -> list[dict]:
    """Summarize the episodes of `play_episodes` in one record per member."""
    labels, (returns, lengths, cut, *_) = sweep.member_labels(setup.config), played
    reward_error = played.reward_errors.sum(1) / lengths.sum(1)
    return [
        {
            "member": number,
            "seed": seed,
            **labels[number],
            "eval_return": float(returns[member].mean()),
            "eval_return_std": float(returns[member].std()),
            "eval_length": float(lengths[member].mean()),
            "eval_episodes": int(returns.shape[1]),
        }
        | ({"eval_reward_error": float(e)} if np.isfinite(e := reward_error[member]) else {})
        | _critic_bias(played.values[member], played.discounted[member])
        | ({"eval_cut": int(cut[member].sum())} if cut[member].any() else {})
        for member, (number, seed) in enumerate(zip(setup.numbers, setup.seeds, strict=True))
    ]


def _critic_bias(values: np.ndarray, discounted: np.ndarray) -> dict[str, float]:
    """Compare the values of the first states of a member's episodes with what followed.

    The critic is that of the policy that samples its actions, while evaluations are greedy, so the
    bias of a perfect critic is not above 0 where greedy actions are the better ones.
    """
    if not np.isfinite(values).all():
        return {}  # without a critic, or of a member whose parameters were damaged
    value, realised = float(values.mean()), float(discounted.mean())
    return {
        "eval_value": value,
        "eval_discounted_return": realised,
        "critic_bias": value - realised,
    }


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
        video: write one episode per member to `videos/`, of `render()` if no entry of the
            observation is an image.
        make_env: as given to `train`.

    Returns:
        `environment`, `env_step`, `frame`, `members`, a record per member with its mean return,
        and with `video` the paths of the `videos`.

    Raises:
        FileNotFoundError: there is no run, or no checkpoint yet.
        UsageError: `episodes` is out of range, there is no such member or checkpoint, or nothing
            that a video could show.
    """
    if episodes < 1:
        raise UsageError(f"episodes is {episodes}; allowed: at least 1")
    saved = read_saved(workdir, None if member is None else [member], make_env, step)
    setup = saved.setup
    if video and setup.jax_env is not None:
        if not any(dtype == "uint8" for _, dtype in setup.agent.obs_shapes.values()):
            raise UsageError(
                "no video can be made: the observations hold no image, and an environment that is "
                "a JAX program draws none"
            )
    elif video:
        first, *others = (
            {env_seed(seed, EVAL_STREAM, episode) for seed in setup.seeds}
            for episode in range(episodes)
        )
        maker = filmed(setup.make_env, min(first), set().union(*others))
        setup = dataclasses.replace(setup, make_env=maker)
    if about := about_wrappers(setup):
        log.warning("%s", about)
    limit = FaultLimit(setup.config.env.max_faults, lambda row, text: log.warning("%s", text))
    env = setup.config.env
    workers = env.workers if env.eval_workers is None else env.eval_workers
    played = play_episodes(
        setup, saved.params, episodes, on_fault=limit, workers=workers, frames=video
    )
    records = zip(saved.numbers, summarize(setup, played), strict=True)
    videos = []
    for number, images in zip(saved.numbers, played.frames, strict=True):
        if not images:
            continue
        path = saved.work.videos / f"eval_{saved.env_step:09d}_member{number}.gif"
        try:
            path.parent.mkdir(exist_ok=True)
            episode_gif(np.stack(images), path)
            videos.append(str(path))
        except Exception as error:  # the results must not be lost with a picture
            log.warning("no video of member %d: %s: %s", number, type(error).__name__, error)
    return {
        "environment": describe_maker(setup.identity.source, setup.identity.name),
        "env_step": saved.env_step,
        "frame": saved.env_step * setup.config.env.action_repeat,
        "members": [record | {"member": number} for number, record in records],
    } | ({"videos": videos} if video else {})
