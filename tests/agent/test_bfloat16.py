"""Losses of the world model in bfloat16 against float32."""

import functools

import jax
import numpy as np
import pytest
from mock_agents import mock_agent, mock_batch, random_like

from dreamer_jax.agent import agent as agent_lib
from dreamer_jax.model.world_model import world_model_loss

B, T, BATCHES = 4, 8, 9
SIZES = {"cnn_depth": 8, "rssm": {"stoch": 8, "classes": 8, "deter": 64, "hidden": 64}}


@pytest.fixture(scope="module")
def losses():
    """Return losses [BATCHES] by dtype and name, for equal parameters and random numbers."""
    results = {}
    for dtype in ("float32", "bfloat16"):
        agent, hypers = mock_agent("image", compute_dtype=dtype, **SIZES)
        shapes = jax.eval_shape(functools.partial(agent_lib.init, agent), jax.random.key(0), hypers)
        params = random_like(shapes.params["model"], scale=0.1)

        def run(params, batch, key, wm=agent.wm, hypers=hypers):
            noise, start = wm.rssm.latent.noise(key, (T, B)), wm.rssm.initial((B,))
            return world_model_loss(wm, params, batch, noise, start, hypers)[1][1]

        step = jax.jit(run)
        batches = [mock_batch("image", b=B, t=T, seed=n) for n in range(BATCHES)]
        rows = [step(params, batch, jax.random.key(n)) for n, batch in enumerate(batches)]
        results[dtype] = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return results


def test_outputs_are_not_rounded():
    """A critic that says 300 distinguishes states, and so do predicted rewards and vectors."""
    agent, hypers = mock_agent("vector", compute_dtype="bfloat16")
    params = jax.tree_util.tree_map_with_path(
        lambda path, x: x + 300 if jax.tree_util.keystr(path).endswith("['out']['bias']") else x,
        agent_lib.init(agent, jax.random.key(0), hypers).params,
    )
    wm, ac, model = agent.wm, agent.behaviors[0].ac, params["model"]
    size = wm.feature(wm.rssm.initial((1,))).shape[-1]
    feat = jax.random.normal(jax.random.key(1), (1000, size))
    values, rewards = ac.value(params["critic"], feat), wm.predict_reward(model, feat)
    for output in (values, rewards, wm.decode(model, feat)["position"]):
        assert output.dtype == np.float32 and abs(output - 300).max() < 30
        assert len(np.unique(output)) > 500  # rounded to bfloat16 about ten


@pytest.mark.parametrize("name", ["image_loss", "reward_loss", "discount_loss", "kl"])
def test_losses_in_bfloat16_are_those_in_float32_up_to_rounding(losses, name):
    exact, rounded = (losses[dtype][name] for dtype in ("float32", "bfloat16"))
    error = np.abs(rounded / exact - 1)
    # A number with 8 bits is off by up to 2^-9, and a loss of one batch may happen to be the same.
    # A sample that rounding moves to another class changes the rest of its sequence.
    assert 0 < np.median(error) < 2**-8
    assert error.max() < 2**-4
