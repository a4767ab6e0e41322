"""FLOPs counted by hand: literals for single layers, XLA's own count for agents and their parts."""

import functools

import jax
import jax.numpy as jnp
import pytest

from dreamer_jax import config as config_lib
from dreamer_jax.agent import agent as agent_lib
from dreamer_jax.agent.build import make_agent
from dreamer_jax.benchmark import flops
from dreamer_jax.benchmark.flops import Flops
from dreamer_jax.benchmark.parts import make_inputs, part_functions
from dreamer_jax.config import sweep
from dreamer_jax.errors import UsageError
from dreamer_jax.model.networks import MLP
from dreamer_jax.runtime import make_backend
from dreamer_jax.types import ActionSpec, Batch

PIXELS = {"image": ((64, 64, 1), "uint8")}
BOTH = PIXELS | {"sensors": ((7,), "float32")}
DISCRETE, CONTINUOUS = ActionSpec(True, 18), ActionSpec(False, 6)


def test_a_matmul_multiplies_and_adds():
    assert flops.matmul(2, 3, 4) == 2 * 3 * (4 + 4)


def test_backward_is_a_matmul_for_weights_and_one_for_inputs():
    layers = [24, 10]  # FLOPs per row
    assert flops.learned(layers, 5, input_grad=True) == Flops(170, 340)
    assert flops.learned(layers, 5, input_grad=False) == Flops(170, 340 - 5 * 24)
    assert flops.constant(layers, 5, input_grad=True) == Flops(170, 170)
    assert flops.constant(layers, 5, input_grad=False) == Flops(170, 0)
    assert (Flops(1, 2) + Flops(10, 20)).total == 33


def test_convolutions():
    # 31 * 31 places, each 4 * 4 * 1 inputs times 48 outputs.
    assert flops.conv(64, 4, 2, 1, 48) == (2 * 961 * 16 * 48, 31)
    # Every one of 13 * 13 pixels of 96 channels goes to 6 * 6 places of 48 channels.
    assert flops.conv_transpose(13, 6, 2, 96, 48) == (2 * 169 * 96 * 36 * 48, 30)


def test_layers_of_an_mlp():
    mlp = functools.partial(MLP, units=5, outputs=2, act=None, norm=False, dtype=jnp.float32)
    assert flops.mlp_layers(mlp(layers=2), 3) == [2 * 3 * 5, 2 * 5 * 5, 2 * 5 * 2]
    assert flops.mlp_layers(mlp(layers=0), 3) == [2 * 3 * 2]


def test_the_papers_update_on_atari():
    """B = L = 50 and H = 15, features of 32 * 32 + 600."""
    agent = make_agent(config_lib.default_config(), PIXELS, DISCRETE, make_backend())
    parts = flops.update_flops(agent, batch=50, length=50)
    first, rest = 2 * 1624 * 400, 2 * (3 * 400 * 400 + 400)
    assert parts["critic"] == Flops(37_500 * (first + rest), 37_500 * (first + 2 * rest))
    assert parts["imagination"].backward == 0
    assert sum(part.total for part in parts.values()) == pytest.approx(2.4e12, rel=0.02)


def abstract_member(agent, batch, length):
    """Shapes of one member's state and batch."""
    hypers = sweep.member_hypers(config_lib.default_config())[0]
    state = jax.eval_shape(functools.partial(agent_lib.init, agent), jax.random.key(0), hypers)

    def struct(shape, dtype):
        return jax.ShapeDtypeStruct((batch, length, *shape), dtype)

    flag, size = struct((), "bool"), agent.behaviors[0].ac.action_size
    discrete = agent.behaviors[0].ac.policy.outputs_per_action == 1
    action = struct((), "int32") if discrete else struct((size,), "float32")
    obs = {key: struct(*shape) for key, shape in agent.obs_shapes.items()}
    return state, Batch(obs, action, struct((), "float32"), flag, flag, flag)


def xla_flops(fn, *shapes):
    """What XLA counts for a function as it is lowered, elementwise operations included."""
    return jax.jit(fn).lower(*shapes).cost_analysis()["flops"]


@pytest.fixture
def unrolled(monkeypatch):
    """XLA counts the body of a loop once, so loops over time are written out."""
    scan = functools.partial(jax.lax.scan, unroll=True)
    monkeypatch.setattr(jax.lax, "scan", scan)


def full_width_agent(obs, action, **changes):
    """The paper's widths, where matrix multiplications are nearly all; short in time."""
    config = config_lib.default_config()
    config.update({"conv": "lax", "horizon": 4} | changes)
    return make_agent(config, obs, action, make_backend())


AGENTS = {
    "atari": (PIXELS, DISCRETE, {}),
    "continuous": (BOTH, CONTINUOUS, {"actor_grad": "dynamics"}),
    "no discount head": (BOTH, DISCRETE, {"discount_head": {"enabled": False}}),
    "gaussian": (
        PIXELS, CONTINUOUS, {"actor_grad": "both", "rssm": {"latent": "gaussian", "stoch": 60}}
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", AGENTS)
def test_update_agrees_with_xla(kind, unrolled):
    obs, action, changes = AGENTS[kind]
    agent = full_width_agent(obs, action, **changes)
    step = functools.partial(agent_lib.train_step, agent)
    counted = flops.update_flops(agent, batch=50, length=4).values()
    expected = xla_flops(step, *abstract_member(agent, 50, 4))
    assert sum(part.total for part in counted) == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize(
    "changes",
    [{"objective": "contrastive"}, {"behavior": "planet"}, {"expl": {"behavior": "plan2explore"}}],
)
def test_other_agents_are_not_counted(changes):
    with pytest.raises(UsageError, match="reconstruction"):
        flops.update_flops(full_width_agent(PIXELS, CONTINUOUS, **changes), batch=2, length=4)


@pytest.mark.parametrize("kind", ["atari", "continuous"])
def test_parts_agree_with_xla(kind, unrolled):
    obs, action, changes = AGENTS[kind]
    agent = full_width_agent(obs, action, **changes)
    counted = flops.update_flops(agent, batch=50, length=4)
    inputs = jax.eval_shape(functools.partial(make_inputs, agent), *abstract_member(agent, 50, 4))
    functions = part_functions(agent)
    assert set(functions) == {*counted, "optimizer"}
    ratios = {n: counted[n].total / xla_flops(functions[n], inputs) for n in counted}
    assert all(0.95 < ratio < 1.01 for ratio in ratios.values()), ratios
