"""Agents from configs: observation keys, loss scales, and the backend."""

import jax
import jax.numpy as jnp
import pytest
from conftest import SHALLOW, make_tiny_config
from mock_agents import equations, mock_agent, mock_batch, mock_state

from dreamer_jax.agent.build import make_agent, select_keys
from dreamer_jax.agent.members import make_members
from dreamer_jax.errors import UsageError
from dreamer_jax.runtime import make_backend
from dreamer_jax.types import ActionSpec

POSITION = {"position": ((3,), "float32")}


@pytest.mark.parametrize("name", ["reward", "discount", "kl"])
def test_an_entry_must_not_have_the_name_of_a_loss(name):
    shapes = POSITION | {name: ((1,), "float32")}
    with pytest.raises(UsageError, match=f"observation '{name}' has the name of another loss"):
        select_keys(".*", ".*", shapes)
    assert select_keys(".*", "position", shapes).vectors == {"position": 3}


def test_losses_are_scaled_by_what_they_are():
    """An observation entry may have the name of the contrastive loss."""
    shapes = POSITION | {"state": ((2,), "float32"), "camera": ((64, 64, 3), "uint8")}
    scales = {"image": 2.0, "vector": 3.0, "state": 5.0, "reward": 7.0, "discount": 11.0}
    heads = {"reward": 7.0, "discount": 11.0}
    for objective, own in {
        "reconstruction": {"camera": 2.0, "position": 3.0, "state": 3.0},
        "contrastive": {"state": 5.0},
    }.items():
        config = make_tiny_config(objective=objective, loss_scales=scales)
        found = make_agent(config, shapes, ActionSpec(True, 3), make_backend("cpu")).wm.loss_scales
        assert {name: found[name] for name in own | heads} == own | heads


def test_a_program_is_made_for_a_backend_that_is_absent():
    """A TPU's update, traced on a CPU: XLA's convolutions, mapped members, few steps unrolled."""
    loops, convolutions = {}, {}
    for name in ("cpu", "tpu"):
        agent, hypers = mock_agent("image", backend=name, horizon=2, **SHALLOW)
        one = mock_state(agent, hypers), mock_batch("image")
        args = jax.tree.map(lambda x: jnp.stack([x, x]), one)
        jaxpr = make_members(agent).train_step.trace(*args).jaxpr
        found = [eqn.primitive.name for eqn in equations(jaxpr.jaxpr)]
        loops[name], convolutions[name] = found.count("scan"), found.count("conv_general_dilated")
    # Forward and twice backward for each of 8 layers; the first layer's images need no gradient.
    # On a CPU, gradients of kernels and the decoder's first layer, of one pixel, are matmuls.
    assert convolutions == {"cpu": 2 * 8 - 2, "tpu": 3 * 8 - 1}
    # Over members; over time in the recurrence and its gradient, and in imagination.
    assert loops == {"cpu": 1 + 3, "tpu": 0}
