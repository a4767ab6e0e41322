"""What a config and an environment's spaces must have in common."""

import pytest
from conftest import make_tiny_config

from dreamer_jax.agent.build import make_agent, select_keys
from dreamer_jax.errors import UsageError
from dreamer_jax.types import ActionSpec

POSITION = {"position": ((3,), "float32")}


@pytest.mark.parametrize("name", ["reward", "discount", "kl"])
def test_an_entry_must_not_have_the_name_of_a_loss(name):
    shapes = POSITION | {name: ((1,), "float32")}
    with pytest.raises(UsageError, match=f"observation '{name}' has the name of another loss"):
        select_keys(".*", ".*", shapes)
    assert select_keys(".*", "position", shapes).vectors == {"position": 3}


def test_losses_are_scaled_by_what_they_are():
    """An entry may be called as the contrastive objective's loss is."""
    shapes = POSITION | {"state": ((2,), "float32"), "camera": ((64, 64, 3), "uint8")}
    scales = {"image": 2.0, "vector": 3.0, "state": 5.0, "reward": 7.0, "discount": 11.0}
    heads = {"reward": 7.0, "discount": 11.0}
    for objective, own in {
        "reconstruction": {"camera": 2.0, "position": 3.0, "state": 3.0},
        "contrastive": {"state": 5.0},
    }.items():
        config = make_tiny_config(objective=objective, loss_scales=scales)
        found = make_agent(config, shapes, ActionSpec(True, 3)).wm.loss_scales
        assert {name: found[name] for name in own | heads} == own | heads
