"""Runs that begin with weights of the original TensorFlow implementation."""

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from dreamer_jax.agent.reference import ImportedParams, import_reference
from dreamer_jax.errors import UsageError
from dreamer_jax.report.progress import Progress
from dreamer_jax.run.identity import write_identity
from dreamer_jax.run.load import MemberAgent, load
from dreamer_jax.run.setup import MakeEnv, RunSetup, build
from dreamer_jax.run.signals import StopSignals
from dreamer_jax.run.trainer import make_trainer
from dreamer_jax.run.workdir import WorkDir

GROUPS = {"model", "actor", "critic"}  # the parameter groups that the original has


def start_from_reference(
    config: ConfigDict,
    workdir: str | Path,
    arrays: Mapping[str, np.ndarray] | str | Path,
    *,
    order: Sequence[str] | None = None,
    make_env: MakeEnv | None = None,
) -> MemberAgent:
    """Make a run whose members begin with weights of the original implementation.

    The returned agent acts with them, and so does `load(workdir)`. `train(config, workdir)` goes on
    from them: as in every run the prefill fills the replay, and the optimizers begin anew.

    Args:
        config: as for `train`; the networks must have the sizes of the original's.
        workdir: where no run is yet.
        arrays: arrays by variable name, as `import_reference` takes them, or the path of an `.npz`
            file of them.
        order: names of the vectors observed, in the order of the original's observation space.
            Needed if there are two or more.
        make_env: as given to `train`.

    Raises:
        UsageError: the weights are not those of such an agent, or the directory has a run.
    """
    setup, work = build(config, make_env), WorkDir(workdir)
    if work.config.exists():
        raise UsageError(f"{work.path} holds a run already; give another work directory")
    weights = _read_weights(setup, arrays, order)
    with contextlib.ExitStack() as closing:
        closing.enter_context(work.claim(setup.config))
        write_identity(work.environment, setup.identity)
        stop = closing.enter_context(StopSignals())
        progress = closing.enter_context(Progress(setup.config.steps, setup.seeds))
        make_trainer(setup, work, progress, stop, closing).begin_with(*weights)
    return load(workdir, make_env=make_env)


def _read_weights(
    setup: RunSetup,
    arrays: Mapping[str, np.ndarray] | str | Path,
    order: Sequence[str] | None,
) -> ImportedParams:
    """Import weights and check that they fit the agent."""
    if isinstance(arrays, (str, Path)):
        try:
            with np.load(arrays) as file:
                arrays = dict(file)
        except (OSError, ValueError) as error:
            raise UsageError(f"{arrays} is not an .npz file of named arrays: {error}") from error
    if setup.agent.normalized:
        raise UsageError(
            f"config.vector.normalize is {setup.config.vector.normalize!r}; allowed with weights "
            "of the original: '', since it observes vectors as they are"
        )
    shapes = setup.agent.obs_shapes.items()
    images = [key for key, (_, dtype) in shapes if dtype == "uint8"]
    if len(images) > 1:
        raise UsageError(
            f"the agent observes the images {', '.join(images)}; allowed with weights of the "
            "original: one, since they do not say in which order it observes several"
        )
    vectors = {key: shape[0] for key, (shape, _) in shapes if len(shape) == 1}
    if order is None and len(vectors) > 1:
        raise UsageError(
            f"the agent observes the vectors {', '.join(vectors)}; give `order`, their names in "
            "the order of the original's observation space"
        )
    try:
        weights = import_reference(arrays, vectors if vectors else None, order)
    except ValueError as error:
        raise UsageError(str(error)) from error
    saved = setup.saved_shapes(with_loop=False)["state"]
    needed = {name: saved.params[name] for name in GROUPS & set(saved.params)}
    misfits = _misfits(weights.params, needed)
    if weights.slow_critic:
        misfits += _misfits({"slow critic": weights.slow_critic}, {"slow critic": needed["critic"]})
    if misfits:
        raise UsageError(
            f"the weights do not fit the config, in {len(misfits)} arrays: "
            + "; ".join(misfits[:5])
            + "; ..." * (len(misfits) > 5)
        )
    return weights


def _misfits(given: Mapping, needed: Mapping) -> list[str]:
    """Describe the arrays of one member that differ from the shapes of all members."""

    def shapes(tree: Mapping, skip: int) -> dict[str, tuple[int, ...]]:
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {"/".join(entry.key for entry in path): x.shape[skip:] for path, x in leaves}

    found, wanted = shapes(given, 0), shapes(needed, 1)
    return [
        f"{path} is {found.get(path, 'missing')}, needed {wanted.get(path, 'nothing')}"
        for path in sorted(found | wanted)
        if found.get(path) != wanted.get(path)
    ]
