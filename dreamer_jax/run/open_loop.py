"""Videos of what the world model predicts without looking, beside what happened."""

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from dreamer_jax.agent.agent import CONTEXT
from dreamer_jax.report.video import open_loop_gif, open_loop_path
from dreamer_jax.run.setup import RunSetup
from dreamer_jax.run.workdir import WorkDir
from dreamer_jax.seeding import REPORT_KEY, member_keys
from dreamer_jax.types import Batch, Params

SEQUENCES = 6  # per video


def write_open_loop(
    parts: RunSetup, params: Mapping[str, Params], batch: Batch, work: WorkDir, env_step: int
) -> list[tuple[int, str, Path]]:
    """Write a GIF per member and image entry to the run's videos/.

    Nothing is written where sequences are not longer than the context, or without images.

    Args:
        params: by group, [M, ...]; batch: replayed sequences [M, B, T, ...].

    Returns:
        (member, name, path) of each.
    """
    if batch.reward.shape[-1] <= CONTEXT:
        return []
    written = []
    keys = member_keys(parts.seeds, REPORT_KEY)
    videos = parts.fns.report(params, longest_episodes(batch, SEQUENCES), keys)
    for key, (truth, prediction) in jax.device_get(videos).items():
        for member in range(len(parts.seeds)):
            path = open_loop_path(work.videos, key, env_step, member)
            open_loop_gif(truth[member], prediction[member], path, context=CONTEXT)
            written.append((member, f"open_loop/{key}", path))
    return written


def longest_episodes(batch: Batch, count: int) -> Batch:
    """The `count` sequences of each member that a new episode interrupts last: [M, count, T]."""
    first = np.asarray(batch.is_first)[:, :, 1:]
    undisturbed = np.where(first.any(-1), first.argmax(-1), first.shape[-1])
    chosen = np.argsort(-undisturbed, axis=1, kind="stable")[:, :count]
    rows = np.arange(len(chosen))[:, None]
    return jax.tree.map(lambda x: x[rows, chosen], batch)
