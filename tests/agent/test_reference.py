"""The mapping of the original's variables onto our parameters, on invented arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import assert_same_structure
from mock_agents import mock_agent

from dreamer_jax.agent import agent as agent_lib
from dreamer_jax.agent.reference import import_reference, reference_path


def ramp(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_dense_and_encoder_kernels_keep_their_layout():
    imported = import_reference(
        {
            "wm/encoder/conv2/kernel": ramp(4, 4, 2, 3),
            "wm/rssm/img_in/kernel": ramp(2, 3),
            "wm/reward/dense1/bias": ramp(4),
        }
    )
    model = imported.params["model"]
    np.testing.assert_array_equal(model["encoder"]["conv_2"]["kernel"], ramp(4, 4, 2, 3))
    np.testing.assert_array_equal(model["rssm"]["img_in"]["kernel"], ramp(2, 3))
    np.testing.assert_array_equal(model["reward"]["dense_1"]["bias"], ramp(4))
    assert imported.slow_critic == {}


def test_transposed_convolutions_exchange_inputs_and_outputs():
    arrays = {"wm/decoder/conv0/kernel": ramp(5, 5, 2, 3), "wm/decoder/conv0/bias": ramp(2)}
    conv = import_reference(arrays).params["model"]["decoder"]["conv_0"]
    assert conv["kernel"].shape == (5, 5, 3, 2)
    assert conv["kernel"][1, 2, 0, 1] == ramp(5, 5, 2, 3)[1, 2, 1, 0]
    np.testing.assert_array_equal(conv["bias"], ramp(2))


@pytest.mark.parametrize("order", [1, -1])
def test_mean_and_std_are_columns_of_one_layer(order):
    arrays = {
        "ac/actor/out/out/kernel": np.zeros((4, 2)),
        "ac/actor/out/std/kernel": np.ones((4, 2)),
        "ac/actor/out/out/bias": np.full(2, 5.0),
        "ac/actor/out/std/bias": np.full(2, 7.0),
    }
    out = import_reference(dict(list(arrays.items())[::order])).params["actor"]["out"]
    np.testing.assert_array_equal(out["kernel"], np.tile([0.0, 0.0, 1.0, 1.0], (4, 1)))
    np.testing.assert_array_equal(out["bias"], [5.0, 5.0, 7.0, 7.0])


def test_target_critic_stands_apart():
    imported = import_reference(
        {
            "ac/critic/dense0/kernel": ramp(3, 2),
            "ac/target_critic/dense0/kernel": -ramp(3, 2),
            "ac/target_critic/out/out/bias": ramp(1),
        }
    )
    assert set(imported.params) == {"critic"}
    np.testing.assert_array_equal(imported.params["critic"]["dense_0"]["kernel"], ramp(3, 2))
    np.testing.assert_array_equal(imported.slow_critic["dense_0"]["kernel"], -ramp(3, 2))
    np.testing.assert_array_equal(imported.slow_critic["out"]["bias"], ramp(1))


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("wm/rssm/gru/norm/gamma", "model/rssm/gru/norm/norm/scale"),
        ("wm/rssm/gru/norm/beta", "model/rssm/gru/norm/norm/bias"),
        ("wm/rssm/img_out_0/kernel", "model/rssm/prior_in/kernel"),
        ("wm/rssm/img_dist_0/bias", "model/rssm/prior_out/bias"),
        ("wm/rssm/obs_out/kernel", "model/rssm/posterior_in/kernel"),
        ("wm/rssm/obs_dist/kernel", "model/rssm/posterior_out/kernel"),
        ("wm/decoder/convin/kernel", "model/decoder/conv_in/kernel"),
        ("wm/discount/out/out/bias", "model/discount/out/bias"),
        ("ac/critic/dense10/kernel", "critic/dense_10/kernel"),
    ],
)
def test_paths(theirs, ours):
    assert reference_path(theirs) == ours


@pytest.mark.parametrize("name", ["wm/rssm/gru/dense/gamma", "wm/rssm", "x/wm/rssm/img_in/bias"])
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match=f"no rule maps the reference variable '{name}'"):
        import_reference({name: ramp(2)})


@pytest.fixture(scope="module")
def shapes():
    agent, hypers = mock_agent("image")
    return jax.eval_shape(lambda key: agent_lib.init(agent, key, hypers), jax.random.key(0))


def reference_names(params, slow_critic):
    """Return the original's shape of each of an image agent's parameters, by its name there."""
    rssm = {
        "gru/norm/norm": "gru/norm",
        "prior_in": "img_out_0",
        "prior_out": "img_dist_0",
        "posterior_in": "obs_out",
        "posterior_out": "obs_dist",
    }
    names = {}
    trees = {"wm": params["model"], "ac/actor": params["actor"], "ac/critic": params["critic"]}
    for root, tree in (trees | {"ac/target_critic": slow_critic}).items():
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            *parents, last = [entry.key for entry in path]
            name = "/".join(parents)
            shape = leaf.shape
            if name.startswith("rssm/"):
                name = "rssm/" + rssm.get(name[5:], name[5:])
                last = {"scale": "gamma"}.get(last, last)
                last = "beta" if name.endswith("norm") and last == "bias" else last
            elif name.startswith("decoder/conv_") and name != "decoder/conv_in":
                shape = (*shape[:2], shape[3], shape[2]) if last == "kernel" else shape
            name = name.replace("conv_in", "convin")
            name = name.replace("conv_", "conv").replace("dense_", "dense")
            heads = name in ("reward/out", "discount/out", "out")
            names[f"{root}/{name}{'/out' if heads else ''}/{last}"] = shape
    return names


def test_a_whole_agent_is_covered(shapes):
    names = reference_names(shapes.params, shapes.slow_critic)
    imported = import_reference({k: np.zeros(s, np.float32) for k, s in names.items()})
    assert_same_structure(imported.params, shapes.params)
    assert_same_structure(imported.slow_critic, shapes.slow_critic)


def test_structure_errors_name_the_path():
    ours = {"actor": {"out": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)}}}
    assert_same_structure(ours, ours)
    with pytest.raises(AssertionError, match=r"1 parameters.*'bias'.*: None given, \(3,\) needed"):
        assert_same_structure({"actor": {"out": {"kernel": jnp.zeros((2, 3))}}}, ours)
    other = {"actor": {"out": {"kernel": jnp.zeros((2, 4)), "bias": jnp.zeros(3)}}}
    with pytest.raises(AssertionError, match=r"'kernel'.*\(2, 4\) given, \(2, 3\) needed"):
        assert_same_structure(other, ours)
    extra = {**ours, "critic": jnp.zeros(1)}
    with pytest.raises(AssertionError, match=r"'critic'.*\(1,\) given, None needed"):
        assert_same_structure(extra, ours)
