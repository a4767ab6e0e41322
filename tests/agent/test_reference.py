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


def init_shapes(obs, action, **changes):
    agent, hypers = mock_agent(obs, action, **changes)
    return jax.eval_shape(lambda key: agent_lib.init(agent, key, hypers), jax.random.key(0))


def reference_names(params, slow_critic):
    """Return the original's shape of each of an agent's parameters, by its name there.

    The agent observes an image, or the vector `position`.
    """
    rssm = {
        "img_norm/norm": "img_in_norm",
        "prior_norm/norm": "img_out_norm_0",
        "posterior_norm/norm": "obs_out_norm",
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
            if name.endswith("norm"):
                last = {"scale": "gamma", "bias": "beta"}[last]
            if name.startswith("rssm/"):
                name = "rssm/" + rssm.get(name[5:], name[5:])
            elif name.endswith("norm"):
                name = name.removesuffix("/norm").replace("conv_norm_", "convnorm")
                coder = name.startswith(("encoder", "decoder"))
                name = name.replace("/norm_", "/densenorm" if coder else "/norm")
                name = name.replace("norm_", "norm")
            elif name.startswith("decoder/conv_") and name != "decoder/conv_in":
                shape = (*shape[:2], shape[3], shape[2]) if last == "kernel" else shape
            name = name.replace("conv_in", "convin")
            name = name.replace("conv_", "conv").replace("dense_", "dense")
            name = name.replace("decoder/out", "decoder/dense_position/out")
            heads = name in ("reward/out", "discount/out", "out")
            if root == "ac/actor" and name == "out" and policy_outputs(shape) == 2:
                half = (*shape[:-1], shape[-1] // 2)
                names[f"{root}/out/std/{last}"] = shape = half
            names[f"{root}/{name}{'/out' if heads else ''}/{last}"] = shape
    return names


def policy_outputs(shape):
    """Return the outputs per action of an actor: 3 discrete actions, or 2 continuous ones."""
    return 1 if shape[-1] == 3 else 2


@pytest.mark.parametrize(
    ("obs", "action", "changes", "count"),
    [
        ("image", "discrete", {}, 62),  # Atari, of two hidden layers
        ("image", "discrete", {"norm": True}, 102),  # Crafter
        ("image", "continuous", {"discount_head": {"enabled": False}}, 58),  # DMC vision
        ("vector", "continuous", {"discount_head": {"enabled": False}}, 50),  # DMC proprio
        ("vector", "continuous", {"norm": True}, 90),
    ],
)
def test_every_variable_of_the_presets_is_mapped(obs, action, changes, count):
    shapes = init_shapes(obs, action, **changes)
    names = reference_names(shapes.params, shapes.slow_critic)
    assert len(names) == count
    imported = import_reference({k: np.zeros(s, np.float32) for k, s in names.items()})
    assert_same_structure(imported.params, shapes.params)
    assert_same_structure(imported.slow_critic, shapes.slow_critic)


def test_vectors_have_their_own_layers_and_an_order():
    arrays = {
        "wm/decoder/dense_speed/out/kernel": np.full((4, 1), 7.0),
        "wm/decoder/dense_position/out/kernel": np.full((4, 2), 5.0),
        "wm/encoder/dense0/kernel": np.repeat([[70.0], [50.0], [51.0]], 3, 1),
    }
    with pytest.raises(ValueError, match="order of the vectors position, speed is needed"):
        import_reference(arrays)
    given = import_reference(arrays, {"position": 2, "speed": 1}, ["speed", "position"])
    model = given.params["model"]
    np.testing.assert_array_equal(model["decoder"]["out"]["kernel"][0], [5, 5, 7])
    np.testing.assert_array_equal(model["encoder"]["dense_0"]["kernel"][:, 0], [50, 51, 70])
    other = import_reference(arrays, {"speed": 1, "position": 2}, ["speed", "position"])
    np.testing.assert_array_equal(other.params["model"]["decoder"]["out"]["kernel"][0], [7, 5, 5])
    with pytest.raises(ValueError, match="has the parts"):
        import_reference(arrays, {"position": 3})
    with pytest.raises(ValueError, match="leaves out those without an axis"):
        import_reference(arrays, {"position": 2, "speed": 2}, ["speed", "position"])


def test_ambiguous_names_are_refused():
    with pytest.raises(ValueError, match="no rule maps .*critic/out/std"):
        import_reference({"ac/critic/out/std/bias": ramp(1), "ac/critic/out/out/bias": ramp(1)})
    with pytest.raises(ValueError, match="the first part of 'actor/out/bias' is missing"):
        import_reference({"ac/actor/out/std/bias": ramp(1)})
    with pytest.raises(ValueError, match="no rule maps .*img_out_1"):  # an ensemble of priors
        import_reference({"wm/rssm/img_out_1/bias": ramp(1)})


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
