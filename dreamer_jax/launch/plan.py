"""The size of a job, from its config alone."""

from typing import NamedTuple

import jax
from ml_collections import ConfigDict

from dreamer_jax import config as config_lib
from dreamer_jax.agent.placement import one_device
from dreamer_jax.config import sweep
from dreamer_jax.run.setup import build
from dreamer_jax.schema import KEYS

# Keys that change neither the environment nor the shape of anything.
SHAPELESS = frozenset(
    (*sweep.HYPER_NAMES, *config_lib.RUN_KEYS, "seeds", "prefill", "pretrain", "expl.until")
) | {key for key in KEYS if key.startswith(("members.", "eval_", "loss_scales.", "opt."))}


class Size(NamedTuple):
    """Bytes of all members of a job."""

    state: int  # parameters, optimizer and policy states, on the device
    replay: int  # the full replay, on the disk or in memory


class Planner:
    """Sizes of jobs. Jobs that differ in values alone are traced once."""

    def __init__(self):
        self._known: dict[str, Size] = {}

    def size(self, config: ConfigDict) -> Size:
        """Return the size of a job with a valid config.

        Raises:
            Exception: whatever making an environment or an agent of the config raises.
        """
        values = {k: v for k, v in config_lib.flatten(config) if k not in SHAPELESS}
        if values["task"].startswith("atari:"):
            values["task"] = "atari"  # all games have the same images and actions
        shapes = repr(values)
        if shapes not in self._known:
            setup = build(_one_member(config), placement=one_device())
            arrays = jax.tree.leaves(setup.saved_shapes(with_loop=False))
            state = sum(x.size * x.dtype.itemsize for x in arrays)
            self._known[shapes] = Size(state, setup.replay_bytes())
        members = len(sweep.members(config))
        return Size(*(members * count for count in self._known[shapes]))


def _one_member(config: ConfigDict) -> ConfigDict:
    """Return a config with the same shapes and one member."""
    one = config.copy_and_resolve_references()
    with one.ignore_type():
        for key in SHAPELESS:
            *groups, leaf = key.split(".")
            node = one
            for group in groups:
                node = node[group]
            node[leaf] = KEYS[key].default
    return one
