"""Tiny agents and random batches for the tests of the pure core."""

import functools
from dataclasses import replace

import chex
import jax
import jax.numpy as jnp
import numpy as np
from conftest import make_tiny_config
from jax.extend.core import jaxprs_in_params

from dreamer_jax.agent import agent as agent_lib
from dreamer_jax.agent.build import make_agent
from dreamer_jax.agent.guard import flatten_metrics
from dreamer_jax.agent.members import make_members
from dreamer_jax.config.sweep import member_hypers
from dreamer_jax.model.distributions import from_noise
from dreamer_jax.model.world_model import world_model_loss
from dreamer_jax.runtime import make_backend
from dreamer_jax.types import ActionSpec, Batch, TrainState

IMAGES = {"image": ((64, 64, 1), "uint8")}
VECTORS = {"position": ((3,), "float32")}
GRIDS = {"board": ((5, 4, 2), "bool")}
OBS = {
    "image": IMAGES,
    "vector": VECTORS,
    "grid": GRIDS,
    "grids": {**GRIDS, "other": ((5, 4, 1), "bool"), **VECTORS},
    "mixed": {**IMAGES, **VECTORS, "depth": ((64, 64, 2), "uint8"), "speed": ((2,), "float32")},
}
ACTIONS = {"discrete": ActionSpec(True, 3), "continuous": ActionSpec(False, 2)}


def mock_agent(obs="vector", action="discrete", backend="cpu", **changes):
    """Return the agent and hypers of a tiny config for one of OBS and one of ACTIONS."""
    config = make_tiny_config(**changes)
    agent = make_agent(config, OBS[obs], ACTIONS[action], make_backend(backend))
    return agent, member_hypers(config)[0]


def train_step(agent, state, batch):
    """Update an agent; return its state and all metrics."""
    state, updates = agent_lib.train_step(agent, state, batch)
    return state, flatten_metrics(updates)


def random_like(shapes, seed=0, scale=0.3):
    """Draw normal numbers in a tree's shapes with NumPy: JAX would compile for each shape."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(
        lambda x: jnp.asarray(scale * rng.normal(size=x.shape), jnp.float32), shapes
    )


def mock_state(agent, hypers, seed=0):
    """Make a state like `agent.init`, but with random numbers for all weights and biases."""
    shapes = jax.eval_shape(functools.partial(agent_lib.init, agent), jax.random.key(0), hypers)
    params = random_like(shapes.params, seed)
    return TrainState(
        params=params,
        slow_critic=jax.tree.map(jnp.copy, params.get("critic", {})),
        opt_states=jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes.opt_states),
        hypers=jax.tree.map(jnp.float32, hypers),
        key=jax.random.key(seed),
        update=jnp.int32(0),
        skipped=jnp.int32(0),
        nonfinite=jnp.int32(0),
    )


@functools.cache
def shared_agent():
    """Return a vector agent, its hypers, and its compiled update of `mock_batch(b=4, t=6)`."""
    agent, hypers = mock_agent("vector", slow_critic_every=3, max_nonfinite=3)
    return agent, hypers, jax.jit(functools.partial(train_step, agent))


@functools.cache
def shared_members(together):
    """Return the shared agent's functions, mapped over members by `vmap` if `together`."""
    agent, _, _ = shared_agent()
    backend = replace(agent.backend, map_members_together=together)
    return make_members(replace(agent, backend=backend))


def mock_batch(obs="vector", action="discrete", b=2, t=4, seed=0):
    """Draw sequences with a terminal episode in row 0, and a truncated one in row 1."""
    rng = np.random.default_rng(seed)
    entries = {}
    for key, (shape, dtype) in OBS[obs].items():
        size = (b, t, *shape)
        values = {"uint8": 256, "bool": 2}
        is_vector = dtype not in values
        entries[key] = rng.normal(size=size) if is_vector else rng.integers(0, values[dtype], size)
        entries[key] = jnp.asarray(entries[key].astype(dtype))
    discrete, size = ACTIONS[action].discrete, ACTIONS[action].size
    is_first, is_last, is_terminal = np.zeros((3, b, t), bool)
    is_first[:, 0] = is_first[:2, t // 2] = is_last[:2, t // 2 - 1] = True
    is_terminal[0, t // 2 - 1] = True
    if discrete:
        actions = np.where(is_first, -1, rng.integers(0, size, (b, t))).astype(np.int32)
    else:
        actions = rng.uniform(-1, 1, (b, t, size)).astype(np.float32) * ~is_first[..., None]
    return Batch(
        obs=entries,
        action=jnp.asarray(actions),
        reward=jnp.asarray(2 * rng.normal(size=(b, t)), jnp.float32),
        is_first=jnp.asarray(is_first),
        is_last=jnp.asarray(is_last),
        is_terminal=jnp.asarray(is_terminal),
    )


def loss_gradients(agent, hypers, obs):
    """Return the gradients of each loss of the world model on a batch of `obs`.

    Returns:
        loss -> part of the world model -> parameters.
    """
    params, batch = mock_state(agent, hypers).params["model"], mock_batch(obs)

    def losses(params):
        noise = agent.wm.rssm.latent.noise(jax.random.key(0), (4, 2))
        start = agent.wm.rssm.initial((2,))
        loss, (_, metrics) = world_model_loss(
            agent.wm, params, batch, noise, start, hypers, sample=from_noise
        )
        metrics = metrics | {"model_loss": loss}
        return {name: value for name, value in metrics.items() if name.endswith("_loss")}

    return jax.device_get(jax.jit(jax.jacrev(losses))(params))


def nonzero(tree):
    """Return the names of the branches in which a gradient is not exactly zero."""
    return {
        name for name, branch in tree.items() if any(leaf.any() for leaf in jax.tree.leaves(branch))
    }


def assert_shapes(tree, expected, dtype=jnp.float32):
    """Check that every leaf has the shape at its place in `expected`, and the dtype."""

    def check(leaf, shape):
        chex.assert_shape(leaf, shape)
        chex.assert_type(leaf, dtype)

    jax.tree.map(check, tree, expected)


def largest_difference(a, b):
    """Return the largest absolute difference between two trees of the same structure."""
    gaps = jax.tree.map(lambda x, y: np.abs(np.asarray(x) - np.asarray(y)).max(), a, b)
    return float(max(jax.tree.leaves(gaps)))


def equations(jaxpr):
    """Yield the equations of a jaxpr and of all jaxprs inside it."""
    for eqn in jaxpr.eqns:
        yield eqn
        for inner in jaxprs_in_params(eqn.params):
            yield from equations(inner)
