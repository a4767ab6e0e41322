"""Import of weights of the original TensorFlow implementation.

The original names its variables by their place in its modules, such as `wm/rssm/gru/dense/kernel`
or `ac/target_critic/out/out/bias`; `_RULES` is the complete mapping. The layouts are the same in
both, (in, out) of dense kernels and (h, w, in, out) of convolutions, except that transposed
convolutions are (h, w, out, in) there. A layer norm's gamma and beta are scale and bias here.
"""

import re
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from dreamer_jax.types import Params


class ImportedParams(NamedTuple):
    """Parameters as `TrainState` holds them."""

    params: dict[str, Params]  # 'model', 'actor', 'critic'
    slow_critic: Params


# Their name -> our path. Their heads of distributions end in a layer `out/out`, to which continuous
# actors add `out/std`; both are columns of one layer here.
_RULES = [
    (r"wm/encoder/conv(\d)/(kernel|bias)", r"model/encoder/conv_\1/\2"),
    (r"wm/encoder/dense(\d)/(kernel|bias)", r"model/encoder/dense_\1/\2"),
    (r"wm/rssm/gru/dense/(kernel|bias)", r"model/rssm/gru/dense/\1"),
    (r"wm/rssm/gru/norm/(gamma|beta)", r"model/rssm/gru/norm/norm/\1"),
    (r"wm/rssm/img_in/(kernel|bias)", r"model/rssm/img_in/\1"),
    (r"wm/rssm/img_out_0/(kernel|bias)", r"model/rssm/prior_in/\1"),
    (r"wm/rssm/img_dist_0/(kernel|bias)", r"model/rssm/prior_out/\1"),
    (r"wm/rssm/obs_out/(kernel|bias)", r"model/rssm/posterior_in/\1"),
    (r"wm/rssm/obs_dist/(kernel|bias)", r"model/rssm/posterior_out/\1"),
    (r"wm/decoder/convin/(kernel|bias)", r"model/decoder/conv_in/\1"),
    (r"wm/decoder/conv(\d)/(kernel|bias)", r"model/decoder/conv_\1/\2"),
    (r"wm/(reward|discount)/dense(\d+)/(kernel|bias)", r"model/\1/dense_\2/\3"),
    (r"wm/(reward|discount)/out/out/(kernel|bias)", r"model/\1/out/\2"),
    (r"ac/(actor|critic)/dense(\d+)/(kernel|bias)", r"\1/dense_\2/\3"),
    (r"ac/(actor|critic)/out/(out|std)/(kernel|bias)", r"\1/out/\3"),
    (r"ac/target_critic/dense(\d+)/(kernel|bias)", r"slow_critic/dense_\1/\2"),
    (r"ac/target_critic/out/out/(kernel|bias)", r"slow_critic/out/\1"),
]
_LEAVES = {"gamma": "scale", "beta": "bias"}
_TRANSPOSED = re.compile(r"wm/decoder/conv\d/kernel")


def reference_path(name: str) -> str:
    """Return our path, joined by '/', of the original's variable `name`."""
    for pattern, target in _RULES:
        if re.fullmatch(pattern, name):
            *parents, leaf = re.sub(pattern, target, name).split("/")
            return "/".join([*parents, _LEAVES.get(leaf, leaf)])
    raise ValueError(f"no rule maps the reference variable {name!r}")


def import_reference(arrays: Mapping[str, np.ndarray]) -> ImportedParams:
    """Convert variables of the original to our parameters.

    Args:
        arrays: arrays in the original's layouts, by variable name under `wm/` or `ac/`.

    Returns:
        Parameters by group, and the slow critic. Groups without a variable are absent.

    Raises:
        ValueError: no rule maps a name.
    """
    flat: dict[str, np.ndarray] = {}
    for name in sorted(arrays):  # 'out/out' before 'out/std', the order of our columns
        value = np.asarray(arrays[name])
        if _TRANSPOSED.fullmatch(name):
            value = value.transpose(0, 1, 3, 2)
        path = reference_path(name)
        flat[path] = np.concatenate([flat[path], value], -1) if path in flat else value
    params = traverse_util.unflatten_dict(jax.tree.map(jnp.asarray, flat), sep="/")
    slow_critic = params.pop("slow_critic", {})
    return ImportedParams(params=params, slow_critic=slow_critic)
