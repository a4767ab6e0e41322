"""Import of weights of the original TensorFlow implementation.

The original names its variables by their place in its modules, such as `wm/rssm/gru/dense/kernel`
or `ac/target_critic/out/out/bias`; `_RULES` is the complete mapping. The layouts are the same in
both, (in, out) of dense kernels and (h, w, in, out) of convolutions, except that transposed
convolutions are (h, w, out, in) there. A layer norm's gamma and beta are scale and bias here.
"""

import re
from collections.abc import Mapping, Sequence
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


# Their name -> our path. In a path, '#1' marks the second part of a layer that is one here: a
# continuous actor's `out/out` and `out/std`, and '#<entry>' that of a vector's own layer. A layer
# norm is a module of two levels here.
_RULES = [
    (r"wm/encoder/(conv|dense)(\d+)/(kernel|bias)", r"model/encoder/\1_\2/\3"),
    (r"wm/encoder/convnorm(\d+)/(gamma|beta)", r"model/encoder/conv_norm_\1/norm/\2"),
    (r"wm/encoder/densenorm(\d+)/(gamma|beta)", r"model/encoder/norm_\1/norm/\2"),
    (r"wm/rssm/gru/dense/(kernel|bias)", r"model/rssm/gru/dense/\1"),
    (r"wm/rssm/gru/norm/(gamma|beta)", r"model/rssm/gru/norm/norm/\1"),
    (r"wm/rssm/img_in/(kernel|bias)", r"model/rssm/img_in/\1"),
    (r"wm/rssm/img_in_norm/(gamma|beta)", r"model/rssm/img_norm/norm/\1"),
    (r"wm/rssm/img_out_0/(kernel|bias)", r"model/rssm/prior_in/\1"),
    (r"wm/rssm/img_out_norm_0/(gamma|beta)", r"model/rssm/prior_norm/norm/\1"),
    (r"wm/rssm/img_dist_0/(kernel|bias)", r"model/rssm/prior_out/\1"),
    (r"wm/rssm/obs_out/(kernel|bias)", r"model/rssm/posterior_in/\1"),
    (r"wm/rssm/obs_out_norm/(gamma|beta)", r"model/rssm/posterior_norm/norm/\1"),
    (r"wm/rssm/obs_dist/(kernel|bias)", r"model/rssm/posterior_out/\1"),
    (r"wm/decoder/convin/(kernel|bias)", r"model/decoder/conv_in/\1"),
    (r"wm/decoder/(conv|dense)(\d+)/(kernel|bias)", r"model/decoder/\1_\2/\3"),
    (r"wm/decoder/convnorm(\d+)/(gamma|beta)", r"model/decoder/conv_norm_\1/norm/\2"),
    (r"wm/decoder/densenorm(\d+)/(gamma|beta)", r"model/decoder/norm_\1/norm/\2"),
    (r"wm/decoder/dense_(.+)/out/(kernel|bias)", r"model/decoder/out/\2#\1"),
    (r"wm/(reward|discount)/dense(\d+)/(kernel|bias)", r"model/\1/dense_\2/\3"),
    (r"wm/(reward|discount)/norm(\d+)/(gamma|beta)", r"model/\1/norm_\2/norm/\3"),
    (r"wm/(reward|discount)/out/out/(kernel|bias)", r"model/\1/out/\2"),
    (r"ac/(actor|critic)/dense(\d+)/(kernel|bias)", r"\1/dense_\2/\3"),
    (r"ac/(actor|critic)/norm(\d+)/(gamma|beta)", r"\1/norm_\2/norm/\3"),
    (r"ac/(actor|critic)/out/out/(kernel|bias)", r"\1/out/\2"),
    (r"ac/actor/out/std/(kernel|bias)", r"actor/out/\1#1"),
    (r"ac/target_critic/dense(\d+)/(kernel|bias)", r"slow_critic/dense_\1/\2"),
    (r"ac/target_critic/norm(\d+)/(gamma|beta)", r"slow_critic/norm_\1/norm/\2"),
    (r"ac/target_critic/out/out/(kernel|bias)", r"slow_critic/out/\1"),
]
_LEAVES = {"gamma": "scale", "beta": "bias"}
_TRANSPOSED = re.compile(r"wm/decoder/conv\d+/kernel")
_VECTORS_IN = "model/encoder/dense_0/kernel"  # its rows are the vectors, one below the other
_VECTORS_OUT = "model/decoder/out"


def reference_path(name: str) -> str:
    """Return our path, joined by '/', of the original's variable `name`.

    Raises:
        ValueError: no rule maps the name.
    """
    return _place(name)[0]


def _place(name: str) -> tuple[str, str]:
    """Return our path of a variable, and which part of the array there it is; '' for all of it."""
    for pattern, target in _RULES:
        if re.fullmatch(pattern, name):
            path, _, part = re.sub(pattern, target, name).partition("#")
            *parents, leaf = path.split("/")
            return "/".join([*parents, _LEAVES.get(leaf, leaf)]), part
    raise ValueError(f"no rule maps the reference variable {name!r}")


def import_reference(
    arrays: Mapping[str, np.ndarray],
    vectors: Mapping[str, int] | None = None,
    order: Sequence[str] | None = None,
) -> ImportedParams:
    """Convert variables of the original to our parameters.

    Args:
        arrays: arrays in the original's layouts, by variable name under `wm/` or `ac/`.
        vectors: sizes of the vectors that the agent observes, by name, in the order in which it
            observes them. Needed if there are two or more: the original decodes each by a layer of
            its own, which are columns of one layer here.
        order: the names of `vectors` in the order in which the original observes them, that of its
            observation space. None: the same.

    Returns:
        Parameters by group, and the slow critic. Groups without a variable are absent.

    Raises:
        ValueError: no rule maps a name, two names mean the same array, a part of an array is
            missing, or the order of vectors is needed and not given.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, value in arrays.items():
        value = np.asarray(value)
        if _TRANSPOSED.fullmatch(name):
            value = value.transpose(0, 1, 3, 2)
        path, part = _place(name)
        parts = found.setdefault(path, {})
        if part in parts:
            raise ValueError(f"the reference variable {name!r} is given twice, for {path!r}")
        parts[part] = value
    flat = {path: _join(path, parts, vectors) for path, parts in found.items()}
    if order is not None and _VECTORS_IN in flat:
        flat[_VECTORS_IN] = _reorder(flat[_VECTORS_IN], vectors or {}, order)
    params = traverse_util.unflatten_dict(jax.tree.map(jnp.asarray, flat), sep="/")
    slow_critic = params.pop("slow_critic", {})
    return ImportedParams(params=params, slow_critic=slow_critic)


def _join(
    path: str, parts: Mapping[str, np.ndarray], vectors: Mapping[str, int] | None
) -> np.ndarray:
    """Join the parts of an array along its last axis, in our order."""
    names = sorted(parts)  # '' before '1': means before stds
    if path.startswith(_VECTORS_OUT):
        if vectors is None and len(parts) > 1:
            raise ValueError(
                f"the order of the vectors {', '.join(names)} is needed: give `vectors`, their "
                "sizes by name in the order in which the agent observes them"
            )
        names = names if vectors is None else list(vectors)
    elif "" not in parts:
        raise ValueError(f"the first part of {path!r} is missing: its `out/out` in the original")
    if set(names) != set(parts):
        raise ValueError(f"{path!r} has the parts {sorted(parts)}; `vectors` has {names}")
    return np.concatenate([parts[name] for name in names], -1)


def _reorder(rows: np.ndarray, vectors: Mapping[str, int], order: Sequence[str]) -> np.ndarray:
    """Reorder rows for vectors in the original's order to ours."""
    if sorted(order) != sorted(vectors):
        raise ValueError(f"order is {list(order)}; it must have each of {list(vectors)} once")
    if len(rows) != sum(vectors.values()):
        raise ValueError(
            f"the original observes vectors of {len(rows)} numbers in all, and {dict(vectors)} "
            f"has {sum(vectors.values())}; it leaves out those without an axis, such as heights: "
            "choose the others by config.mlp_keys"
        )
    ends = np.cumsum([vectors[name] for name in order])
    blocks = dict(zip(order, np.split(rows, ends[:-1]), strict=True))
    return np.concatenate([blocks[name] for name in vectors])
