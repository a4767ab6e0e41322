"""FLOPs counted in a trace: literals for single operations, XLA's own count for agents."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax import config as config_lib
from dreamer_jax.agent import agent as agent_lib
from dreamer_jax.agent.build import make_agent
from dreamer_jax.benchmark.flops import count_flops
from dreamer_jax.benchmark.parts import PARTS, make_inputs
from dreamer_jax.config import sweep
from dreamer_jax.runtime import make_backend
from dreamer_jax.types import ActionSpec, Batch

PIXELS = {"image": ((64, 64, 1), "uint8")}
BOTH = PIXELS | {"sensors": ((7,), "float32")}
DISCRETE, CONTINUOUS = ActionSpec(True, 18), ActionSpec(False, 6)


def test_a_matmul_multiplies_and_adds():
    assert count_flops(jnp.matmul, jnp.zeros((2, 4)), jnp.zeros((4, 3))) == 2 * 3 * (4 + 4)
    assert count_flops(jax.vmap(jnp.dot), jnp.zeros((5, 4)), jnp.zeros((5, 4))) == 5 * (4 + 4)


def test_backward_is_a_matmul_for_weights_and_one_for_inputs():
    def loss(weights, x):
        for weight in weights:
            x = jnp.tanh(x @ weight)
        return x.sum()

    x, weights = jnp.zeros((5, 3)), [jnp.zeros((3, 4)), jnp.zeros((4, 2))]
    first, second = 5 * 24, 5 * 16
    assert count_flops(loss, weights, x) == first + second
    assert count_flops(jax.grad(loss), weights, x) == 2 * first + 3 * second
    assert count_flops(jax.grad(loss, (0, 1)), weights, x) == 3 * (first + second)
    assert count_flops(jax.grad(loss, 1), weights, x) == 2 * (first + second)


@pytest.mark.parametrize(
    ("side", "padding", "dilation", "kernel", "pairs"),
    [
        (64, (0, 0), 1, 4, 31 * 4),
        # Every one of 13 pixels goes to 6 places, and no zero in between or around counts.
        (13, (5, 5), 2, 6, 13 * 6),
        (3, (1, 1), 1, 3, 2 + 2),  # stride 2 of SAME: the places 0 and 2, cut on one side each
    ],
)
def test_convolutions_count_pairs_of_entries(side, padding, dilation, kernel, pairs):
    stride = 1 if dilation > 1 else 2
    conv = functools.partial(
        jax.lax.conv_general_dilated,
        window_strides=(stride, stride),
        padding=(padding, padding),
        lhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    images, weights = jnp.zeros((10, side, side, 3)), jnp.zeros((kernel, kernel, 3, 7))
    assert count_flops(conv, images, weights) == 2 * pairs**2 * 10 * 3 * 7

    def loss(weights, images):
        return conv(images, weights).sum()

    both = count_flops(jax.grad(loss, (0, 1)), weights, images)
    assert both == 2 * count_flops(conv, images, weights)  # its result is not needed


def test_loops_branches_and_dead_code():
    matrix = jnp.zeros((2, 2))

    def step(x, _):
        return x @ matrix, None

    assert count_flops(lambda x: jax.lax.scan(step, x, length=7)[0], matrix) == 7 * 16
    assert count_flops(lambda x: jax.lax.map(lambda row: row @ matrix, x), matrix) == 16
    branches = [lambda x: x, lambda x: x @ x @ x]
    assert count_flops(lambda i, x: jax.lax.switch(i, branches, x), 0, matrix) == 32

    def unused(x):
        x @ x
        return x

    assert count_flops(jax.jit(unused), matrix) == 0
    with pytest.raises(ValueError, match="any number of times"):
        count_flops(lambda x: jax.lax.while_loop(lambda x: x.sum() < 1, lambda x: x @ x, x), matrix)


def test_the_papers_update_on_atari():
    """B = L = 50 and H = 15; the critic has features of 32 * 32 + 600 and four layers of 400.

    The matmuls of the recurrence are computed three times more than a scan's gradient would.
    """
    recurrence = (32 * 32 + 18) * 600 + (600 + 600) * 1800 + 600 * 600 + 600 * 32 * 32
    agent = full_width_agent(PIXELS, DISCRETE, horizon=15)
    shapes = abstract_member(agent, 50, 50)
    total = count_flops(functools.partial(agent_lib.train_step, agent), *shapes)
    assert total == pytest.approx(2.375e12 + 3 * 2 * 2500 * recurrence, rel=2e-3)


def abstract_member(agent, batch, length):
    """Return the shapes of one member's state and batch."""
    hypers = sweep.member_hypers(config_lib.default_config())[0]
    state = jax.eval_shape(functools.partial(agent_lib.init, agent), jax.random.key(0), hypers)

    def struct(shape, dtype):
        return jax.ShapeDtypeStruct((batch, length, *shape), dtype)

    flag, size = struct((), "bool"), agent.wm.rssm.action_size
    action = struct((), "int32") if size == DISCRETE.size else struct((size,), "float32")
    obs = {key: struct(*shape) for key, shape in agent.obs_shapes.items()}
    return state, Batch(obs, action, struct((), "float32"), flag, flag, flag)


def full_width_agent(obs, action, **changes):
    """Return an agent of the paper's widths, where matmuls dominate; short in time."""
    config = config_lib.default_config()
    config.update({"conv": "lax", "horizon": 2} | changes)
    return make_agent(config, obs, action, make_backend())


AGENTS = {
    "atari": (PIXELS, DISCRETE, {}),
    "continuous": (BOTH, CONTINUOUS, {"actor_grad": "dynamics"}),
    "gaussian": (
        PIXELS, CONTINUOUS, {"actor_grad": "both", "rssm": {"latent": "gaussian", "stoch": 60}}
    ),
    "plan2explore": (PIXELS, CONTINUOUS, {"expl": {"behavior": "plan2explore"}}),
    "contrastive": (PIXELS, CONTINUOUS, {"objective": "contrastive", "behavior": "planet"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", AGENTS)
def test_updates_agree_with_xla(kind, monkeypatch):
    """XLA counts elementwise operations too, which are few at these widths."""
    obs, action, changes = AGENTS[kind]
    agent = full_width_agent(obs, action, **changes)
    step, shapes = functools.partial(agent_lib.train_step, agent), abstract_member(agent, 100, 2)
    counted = count_flops(step, *shapes)
    # XLA counts the body of a loop once, so loops over time are traced again, unrolled.
    jax.clear_caches()
    monkeypatch.setattr(jax.lax, "scan", functools.partial(jax.lax.scan, unroll=True))
    assert counted == pytest.approx(jax.jit(step).lower(*shapes).cost_analysis()["flops"], rel=0.05)


@pytest.mark.parametrize("kind", ["atari", "plan2explore"])
def test_parts_add_up_to_the_update(kind):
    obs, action, changes = AGENTS[kind]
    agent = full_width_agent(obs, action, **changes)
    shapes = abstract_member(agent, 100, 2)
    update = count_flops(functools.partial(agent_lib.train_step, agent), *shapes)
    inputs = jax.eval_shape(functools.partial(make_inputs, agent), *shapes)
    counts = {
        name: count_flops(functools.partial(part, agent), inputs) for name, part in PARTS.items()
    }
    assert counts["world model"] + counts["behaviors"] == update
    inside = [count for name, count in counts.items() if name.startswith("-")]
    np.testing.assert_allclose(sum(inside), counts["world model"], rtol=0.01)
