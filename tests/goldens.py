"""Golden files of the original TensorFlow implementation, and the tolerances of the comparison.

The files are not part of the project: DREAMER_JAX_PARITY names their folder, and tests that need
them are skipped if it is absent.
"""

import json
import os
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mock_agents import mock_state

from dreamer_jax.agent.build import make_agent
from dreamer_jax.agent.reference import import_reference
from dreamer_jax.config.config import default_config
from dreamer_jax.config.sweep import member_hypers
from dreamer_jax.runtime import make_backend
from dreamer_jax.types import ActionSpec, Batch, RSSMState

NAMED = os.environ.get("DREAMER_JAX_PARITY")
FOLDER = Path(NAMED or Path(__file__).parents[2] / "shared" / "reference" / "parity")
if NAMED and not FOLDER.is_dir():
    raise FileNotFoundError(f"DREAMER_JAX_PARITY is {NAMED}, which is no folder")
needs_goldens = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no golden files in {FOLDER}")

FORWARD = 1e-5  # of the array's largest entry
GRADIENT = 1e-4  # of the array's largest entry
WEIGHTS = 5e-6  # absolute, after whole training steps

# Their metric -> ours, where the names differ.
METRICS = {
    "model_kl": "kl",
    "prior_ent": "prior_entropy",
    "post_ent": "posterior_entropy",
    "actor_ent": "actor_entropy",
    "actor_ent_scale": "actor_entropy_scale",
    "reward_mean": "imagined_reward",
    "reward_std": "imagined_reward_std",
    # The original can rescale rewards by a running magnitude; its preset leaves them unchanged.
    "reward_normed_mean": "imagined_reward",
    "reward_normed_std": "imagined_reward_std",
}


def close(ours, theirs, tolerance=FORWARD):
    theirs = np.asarray(theirs)
    assert jnp.shape(ours) == theirs.shape
    atol = tolerance * max(np.abs(theirs).max(), 1e-30)
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=atol)


def load(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = dict(file)
    return arrays, json.loads((FOLDER / f"{name}.json").read_text())


def assert_same_structure(imported, ours):
    """Check that imported parameters fit a network; the error names the first five misfits."""

    def shapes(tree):
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path): leaf.shape for path, leaf in leaves}

    given, needed = shapes(imported), shapes(ours)
    wrong = sorted(k for k in given | needed if given.get(k) != needed.get(k))
    rows = [f"{k}: {given.get(k)} given, {needed.get(k)} needed" for k in wrong[:5]]
    assert not wrong, f"{len(wrong)} parameters do not fit: {', '.join(rows)}"


def check_metrics(ours, theirs):
    assert theirs
    for name, value in theirs.items():
        close(ours[METRICS.get(name, name)], value)


def check_grads(ours, theirs):
    """Compare gradients with `theirs` by variable name; all of ours must occur in it."""
    mapped = import_reference(theirs)
    assert_same_structure(mapped.params, ours)
    jax.tree.map(lambda a, b: close(a, b, GRADIENT), ours, mapped.params)


class Golden:
    """The Atari golden file, with an agent of its configuration and its weights."""

    def __init__(self):
        self.arrays, self.info = load("goldens_atari_disc")
        config = default_config()
        config.cnn_depth = 4
        config.rssm.update({"stoch": 4, "classes": 5, "deter": 32, "hidden": 32})
        for head in ("reward_head", "discount_head", "actor", "critic"):
            config[head].update({"layers": 2, "units": 16})
        config.horizon = 4
        config.slow_critic_every = 2
        theirs = self.info["config"]
        assert theirs["discount"] == config.discount
        assert theirs["model_opt"]["lr"] == config.model_lr
        self.config = config
        obs = {"image": ((64, 64, 1), "uint8")}
        self.agent = make_agent(config, obs, ActionSpec(discrete=True, size=6), make_backend("cpu"))
        self.hypers = member_hypers(config)[0]
        self.imported = import_reference(self.prefixed("var/"))
        state = mock_state(self.agent, self.hypers)
        assert_same_structure(self.imported.params, state.params)
        assert_same_structure(self.imported.slow_critic, state.slow_critic)
        self.state = state.replace(
            params=self.imported.params,
            slow_critic=self.imported.slow_critic,
            opt_states=jax.jit(self.init_optimizers)(self.imported.params),
        )
        self.model = self.imported.params["model"]
        names = ("reward", "is_first", "is_last", "is_terminal", "action")
        fields = {name: jnp.asarray(self["in/batch/" + name]) for name in names}
        self.batch = Batch(obs={"image": jnp.asarray(self["in/batch/image"])}, **fields)
        self.noise = jnp.zeros((7, 3, 4))  # the mode is taken

    def init_optimizers(self, params):
        return {name: self.agent.optimizers[name].init(params[name]) for name in params}

    def __getitem__(self, key):
        return self.arrays[key]

    def prefixed(self, prefix):
        return {k[len(prefix) :]: v for k, v in self.arrays.items() if k.startswith(prefix)}

    def stored_state(self, prefix, rows=slice(None)):
        return RSSMState(
            deter=jnp.asarray(self[prefix + "/deter"])[rows],
            stoch=jnp.asarray(self[prefix + "/stoch"])[rows],
        )

    def check_state(self, prefix, state, stats):
        close(state.deter, self[prefix + "/deter"])
        close(state.stoch, self[prefix + "/stoch"])
        close(stats["logits"], self[prefix + "/logit"])

    def start(self, kind):
        if kind == "carry":
            return self.stored_state("in/step/prev", slice(3))
        return self.agent.wm.rssm.initial((3,))


@pytest.fixture(scope="session")
def golden():
    return Golden()
