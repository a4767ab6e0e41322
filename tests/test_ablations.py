"""Every ablation changes what it names and nothing else: in the config, and in gradients."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mock_agents import fast_jit, mock_agent, mock_batch, mock_state
from test_config import CONFIGS, get_config

from dreamer_jax import config as config_lib
from dreamer_jax.config_file import load_config_file
from dreamer_jax.model.distributions import from_noise
from dreamer_jax.model.kl import KL_LOSSES
from dreamer_jax.model.latents import CategoricalLatent
from dreamer_jax.model.world_model import world_model_loss

ABLATIONS = load_config_file(CONFIGS / "ablations.py").ABLATIONS
# The keys in which an ablation differs from configs/atari.py.
CHANGED = {
    "no_layer_norm": {"rssm.gru_norm"},
    "no_reward_gradients": {"grad_heads.reward"},
    "no_discrete_latents": {"rssm.latent"},
    "no_kl_balancing": {"kl_loss"},
    "no_policy_reinforce": {"actor_grad"},
    "no_image_gradients": {"grad_heads.observation"},
    "mixed_gradients": {"actor_grad"},
    "schedules": {
        "actor_grad", "actor_grad_mix_final", "actor_entropy", "actor_entropy_final",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", ABLATIONS)
def test_the_config_differs_in_what_is_named(name):
    base, ablated = get_config("atari", "pong,debug"), get_config("ablations", f"pong,{name},debug")
    lines = config_lib.differences(base, ablated)
    assert {line.split(":")[0].strip() for line in lines} == CHANGED[name]


def test_the_sweep_has_all():
    added = []
    load_config_file(CONFIGS / "ablations.py").sweep(added.append)
    assert added == [f"pong,{name}" for name in CHANGED]


def norms(tree):
    """Per part of a tree of gradients, whether it is not exactly zero."""
    return {
        name: any(bool(leaf.any()) for leaf in jax.tree.leaves(part)) for name, part in tree.items()
    }


def gradients(of, ablation=None):
    """Gradients of one term of the world model's loss alone, by part of the world model."""
    scales = dict.fromkeys(("image", "vector", "reward", "discount"), 0.0)
    changes = {"loss_scales": scales | ({of: 1.0} if of != "kl" else {})}
    changes |= {"kl_scale": float(of == "kl"), "kl_balance": 0.8} | ABLATIONS.get(ablation, {})
    agent, hypers = mock_agent("mixed", **changes)
    params = mock_state(agent, hypers).params["model"]
    batch = mock_batch("mixed")

    def loss(params):
        noise = agent.wm.rssm.latent.noise(jax.random.key(0), (4, 2))
        start = agent.wm.rssm.initial((2,))
        return world_model_loss(agent.wm, params, batch, noise, start, hypers, sample=from_noise)[0]

    return fast_jit(jax.grad(loss))(params)


def trained(of, ablation=None):
    return {name for name, nonzero in norms(gradients(of, ablation)).items() if nonzero}


def test_no_image_gradients():
    assert trained("image") == {"encoder", "rssm", "decoder"}
    assert trained("image", "no_image_gradients") == {"decoder"}
    assert trained("reward", "no_image_gradients") == {"encoder", "rssm", "reward"}


def test_no_reward_gradients():
    assert trained("reward") == {"encoder", "rssm", "reward"}
    assert trained("reward", "no_reward_gradients") == {"reward"}
    assert trained("image", "no_reward_gradients") == {"encoder", "rssm", "decoder"}


def test_no_layer_norm():
    """Nothing else of the GRU goes: its other weights keep their shapes, and learn."""
    base, ablated = (gradients("kl", name)["rssm"]["gru"] for name in (None, "no_layer_norm"))
    assert norms(base) == {"dense": True, "norm": True}
    assert norms(ablated) == {"dense": True}
    jax.tree.map(
        lambda a, b: np.testing.assert_equal(a.shape, b.shape), base["dense"], ablated["dense"]
    )


def test_no_kl_balancing():
    """Each side's gradient is the balanced one divided by its share."""
    latent, rng = CategoricalLatent(3, 4), np.random.default_rng(0)
    logits = [jnp.asarray(rng.normal(size=(2, 5, 3, 4)), jnp.float32) for _ in range(2)]

    def grads(name):
        def loss(post, prior):
            stats = {"logits": post}, {"logits": prior}
            return KL_LOSSES[name](latent, *stats, balance=0.8, free_nats=0.0)[0]

        return jax.grad(loss, (0, 1))(*logits)

    config = get_config("ablations", "pong,no_kl_balancing,debug")
    plain, balanced = grads(config.kl_loss), grads(get_config("atari", "pong,debug").kl_loss)
    np.testing.assert_allclose(balanced[0], 0.2 * plain[0], rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(balanced[1], 0.8 * plain[1], rtol=1e-4, atol=1e-7)


def test_no_discrete_latents():
    """A sample moves with the mean as it is, and with the deviation by its noise."""
    agents = [
        mock_agent("vector", **ABLATIONS.get(name, {}))[0] for name in (None, "no_discrete_latents")
    ]
    base, ablated = (agent.wm.rssm.latent for agent in agents)
    assert (base.shape, ablated.shape) == ((4, 5), (4,))
    noise = jnp.array([0.5, -1.0, 0.0, 2.0])

    def sample(mean, std):
        return ablated.dist({"mean": mean, "std": std}).sample_from(noise)

    jacobian = jax.jacobian(sample, (0, 1))(jnp.zeros(4), jnp.ones(4))
    np.testing.assert_array_equal(jacobian[0], np.eye(4))
    np.testing.assert_array_equal(jacobian[1], np.diag(noise))


@functools.cache
def actor_gradient(ablation):
    """Gradient of the actor loss without entropy bonus, in update 0; straight-through, reinforce:
    through the rollout, and through the policy's probability of what it has done."""
    from test_behavior import Case

    changes = ABLATIONS.get(ablation, {"actor_grad": "reinforce"})
    case = Case("discrete", **{"actor_grad": "reinforce"} | changes)
    hypers = case.hypers.replace(
        actor_entropy=0.0, actor_entropy_final=0.0, actor_grad_mix=0.1, actor_grad_mix_final=0.0
    )

    def loss(inside, outside):
        return case.actor_loss(case.roll_out(actor=inside), outside, hypers)

    actor = case.params["actor"]
    return fast_jit(jax.grad(loss, (0, 1)))(actor, actor)


def test_actor_gradients():
    _, reinforce = actor_gradient(None)
    straight_through, nothing = actor_gradient("no_policy_reinforce")
    assert not any(leaf.any() for leaf in jax.tree.leaves(nothing))
    for name in ("mixed_gradients", "schedules"):
        inside, outside = actor_gradient(name)
        for ours, share, alone in ((inside, 0.1, straight_through), (outside, 0.9, reinforce)):
            assert any(leaf.any() for leaf in jax.tree.leaves(alone))
            jax.tree.map(
                lambda a, b, s=share: np.testing.assert_allclose(a, s * b, rtol=1e-3, atol=1e-6),
                ours,
                alone,
            )
