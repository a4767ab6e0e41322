"""Grids: the encoder's convolution, the decoder's likelihood, and an agent that observes one."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mock_agents import (
    largest_difference,
    loss_gradients,
    mock_agent,
    mock_batch,
    mock_state,
    nonzero,
    train_step,
)

from dreamer_jax.agent.build import select_keys
from dreamer_jax.agent.report import report
from dreamer_jax.errors import UsageError
from dreamer_jax.model.networks import GridEncoder
from dreamer_jax.model.objectives import reconstruction_of_grids


def encoder(act=lambda x: x, **changes):
    sizes = {"depth": 3, "units": 2, "norm": False, "dtype": jnp.float32}
    return GridEncoder(act=act, **sizes | changes)


def test_the_first_layer_is_a_convolution():
    """Beside XLA's own, on a board that is not square; the second layer takes one output of it."""
    rng, shape = np.random.default_rng(0), (2, 5, 4, 2)
    grids = jnp.asarray(rng.integers(0, 2, shape), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 2, 3)), jnp.float32)
    bias = jnp.asarray(rng.normal(size=3), jnp.float32)
    expected = jax.lax.conv_general_dilated(
        grids, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    expected = jax.nn.relu(expected + bias.reshape(1, 1, 1, 3)).reshape(2, 18)
    params = {
        "dense_0": {"kernel": kernel.reshape(18, 3), "bias": bias},
        "dense_1": {"kernel": jnp.eye(18), "bias": jnp.zeros(18)},
    }
    found = encoder(jax.nn.relu, units=18).apply({"params": params}, grids)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_an_encoding_by_hand():
    """One channel, a kernel that weighs a patch's cells 1 to 9, and the sum of its two outputs."""
    board = jnp.array([[1, 0, 0, 1], [0, 0, 1, 0], [0, 1, 0, 0]], bool)[..., None]
    params = {
        "dense_0": {"kernel": jnp.arange(1.0, 10.0)[:, None], "bias": jnp.array([0.5])},
        "dense_1": {"kernel": jnp.array([[1.0, 10.0], [1.0, 0.0]]), "bias": jnp.zeros(2)},
    }
    # The left patch has cells 1, 6 and 8, the right one 3, 5 and 7.
    found = encoder(depth=1).apply({"params": params}, board)
    np.testing.assert_allclose(found, [15.5 + 15.5, 155.0])


def test_log_probabilities_by_hand():
    """Of two cells with probabilities 3/4 and 1/2, a full and an empty one."""
    logits = {"board": jnp.array([math.log(3), 0.0]).reshape(1, 1, 1, 2, 1)}
    obs = {"board": jnp.array([1.0, 0.0]).reshape(1, 1, 1, 2, 1)}
    found = reconstruction_of_grids(logits, obs)["board"]
    np.testing.assert_allclose(found, [[math.log(3 / 4) + math.log(1 / 2)]], rtol=1e-6)


@pytest.mark.slow
def test_a_grids_loss_trains_encoder_states_and_decoder():
    agent, hypers = mock_agent("grid", kl_scale=0.0, loss_scales={"grid": 3.0})
    assert agent.wm.loss_scales["board"] == 3.0
    grads = loss_gradients(agent, hypers, "grid")
    assert nonzero(grads["board_loss"]) == {"encoder", "rssm", "decoder"}
    total = grads["model_loss"]["decoder"], jax.tree.map(lambda x: 3 * x, grads["board_loss"])
    assert largest_difference(total[0], total[1]["decoder"]) < 1e-4


@pytest.mark.slow
def test_an_update_lowers_the_loss_of_boards_beside_vectors():
    agent, hypers = mock_agent("grids", model_lr=1e-2)
    state, batch = mock_state(agent, hypers), mock_batch("grids", b=4, t=6)
    update = jax.jit(lambda state: train_step(agent, state, batch))
    state, first = update(state)
    for _ in range(20):
        state, metrics = update(state)
    for key in ("board_loss", "other_loss", "position_loss"):
        assert metrics[key] < 0.9 * first[key], key
    diagnostics = report(agent, state, mock_batch("grids", b=4, t=8), jax.random.key(0))
    assert not diagnostics.films and {"board", "other"} <= diagnostics.error.keys()


def test_probabilities_are_decoded():
    agent, hypers = mock_agent("grid")
    params = mock_state(agent, hypers).params["model"]
    feat = agent.wm.feature(agent.wm.rssm.initial((1, 1)))
    board = agent.wm.decode(params, feat)["board"]
    assert board.shape == (1, 1, 5, 4, 2) and (0 < board).all() and (board < 1).all()


def test_boards_have_one_size():
    shapes = {"a": ((5, 4, 2), "bool"), "b": ((6, 4, 1), "bool"), "v": ((3,), "float32")}
    with pytest.raises(UsageError, match="must have one height and width"):
        select_keys(".*", ".*", shapes)
    chosen = select_keys("a", ".*", shapes)
    assert (chosen.grids, chosen.vectors) == ({"a": (5, 4, 2)}, {"v": 3})
