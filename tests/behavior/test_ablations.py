"""Every ablation changes what it names and nothing else: in the config, and in gradients."""

import functools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mock_agents import loss_gradients, mock_agent, nonzero
from test_behavior import Case

from dreamer_jax import config as config_lib
from dreamer_jax.agent import agent as agent_lib
from dreamer_jax.behavior.actor_critic import ACTOR_GRADS, actor_loss
from dreamer_jax.configs import ablations, get_config
from dreamer_jax.model.kl import KL_LOSSES
from dreamer_jax.model.latents import CategoricalLatent

ABLATIONS = ablations.ABLATIONS
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
        "anneal_updates",
    },
}  # fmt: skip


def close(ours, expected):
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", ABLATIONS)
def test_the_config_differs_in_what_is_named(name):
    base, ablated = get_config("atari", "pong,debug"), get_config("ablations", f"pong,{name},debug")
    lines = config_lib.differences(base, ablated)
    assert {line.split(":")[0].strip() for line in lines} == CHANGED[name]


@pytest.mark.parametrize("variant", ["", ",release"])
def test_schedules_end_after_ten_million_frames(variant):
    config = get_config("ablations", "pong,schedules" + variant)
    frames = config.anneal_updates * config.train_every * config.env.action_repeat
    assert frames == 10_000_000


def test_the_sweep_has_all():
    added = []
    ablations.sweep(lambda **changes: added.append(changes), "pong")
    assert added[0] == {} and len(added) == 1 + len(CHANGED)
    for name, overrides in zip(CHANGED, added[1:], strict=True):
        config = get_config("ablations", "pong")
        config.update(overrides)
        assert config_lib.differences(config, get_config("ablations", f"pong,{name}")) == []


@functools.cache
def gradients(obs, ablation=None):
    """Gradients of the world model's losses, each by itself: loss -> part -> parameters."""
    agent, hypers = mock_agent(obs, kl_balance=0.8, **ABLATIONS.get(ablation, {}))
    return loss_gradients(agent, hypers, obs)


def test_no_image_gradients():
    base, ablated = gradients("image"), gradients("image", "no_image_gradients")
    assert nonzero(base["image_loss"]) == {"encoder", "rssm", "decoder"}
    assert nonzero(ablated["image_loss"]) == {"decoder"}
    for name in ("reward_loss", "discount_loss", "kl_loss"):
        jax.tree.map(close, ablated[name], base[name])
    jax.tree.map(close, ablated["image_loss"]["decoder"], base["image_loss"]["decoder"])


def test_no_reward_gradients():
    base, ablated = gradients("vector"), gradients("vector", "no_reward_gradients")
    assert nonzero(base["reward_loss"]) == {"encoder", "rssm", "reward"}
    assert nonzero(ablated["reward_loss"]) == {"reward"}
    for name in ("position_loss", "discount_loss", "kl_loss"):
        jax.tree.map(close, ablated[name], base[name])
    jax.tree.map(close, ablated["reward_loss"]["reward"], base["reward_loss"]["reward"])


def test_no_layer_norm():
    """Nothing else of the GRU goes: its other weights keep their shapes, and learn."""
    base, ablated = (
        gradients("vector", name)["kl_loss"]["rssm"]["gru"] for name in (None, "no_layer_norm")
    )
    assert nonzero(base) == {"dense", "norm"}
    assert nonzero(ablated) == {"dense"}
    assert jax.tree.map(np.shape, base["dense"]) == jax.tree.map(np.shape, ablated["dense"])
    for loss, parts in gradients("vector").items():
        assert nonzero(gradients("vector", "no_layer_norm")[loss]) == nonzero(parts), loss


def changed_shapes(ablation):
    """Names of the parameters that an ablation adds, takes away, or gives another shape."""

    def shapes(name):
        agent, hypers = mock_agent("vector", **ABLATIONS.get(name, {}))
        init = functools.partial(agent_lib.init, agent)
        params = jax.eval_shape(init, jax.random.key(0), hypers).params
        leaves = jax.tree_util.tree_leaves_with_path(params)
        return {(jax.tree_util.keystr(p, simple=True, separator="/"), x.shape) for p, x in leaves}

    return {name for name, _ in shapes(None) ^ shapes(ablation)}


def test_ablations_change_the_shapes_of_what_they_name_alone():
    heads = [f"model/rssm/{name}_out" for name in ("prior", "posterior")]
    latent = {"model/rssm/img_in/kernel"} | {f"{h}/{x}" for h in heads for x in ("kernel", "bias")}
    readers = ("model/decoder", "model/reward", "model/discount", "actor", "critic")  # of features
    changed = {
        "no_layer_norm": {f"model/rssm/gru/norm/norm/{x}" for x in ("scale", "bias")},
        "no_discrete_latents": latent | {f"{part}/dense_0/kernel" for part in readers},
    }
    for name in ABLATIONS:
        assert changed_shapes(name) == changed.get(name, set()), name


def test_no_kl_balancing_in_the_world_model():
    """The prior's head, which no other loss trains, gets all of its gradient."""
    base, ablated = gradients("vector"), gradients("vector", "no_kl_balancing")
    for name in ("position_loss", "reward_loss", "discount_loss"):
        jax.tree.map(close, ablated[name], base[name])
    balanced, plain = (grads["kl_loss"]["rssm"] for grads in (base, ablated))
    for layer in ("prior_in", "prior_out"):
        jax.tree.map(lambda a, b: close(a, 0.8 * b), balanced[layer], plain[layer])


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


def test_actor_gradients():
    """Without entropy bonus: through the rollout, and through the probability of its actions."""
    kinds = {
        name: ACTOR_GRADS[ABLATIONS.get(name, {"actor_grad": "reinforce"})["actor_grad"]]
        for name in ("base", "no_policy_reinforce", "mixed_gradients", "schedules")
    }
    case = Case("discrete", "both")
    hypers = case.hypers.replace(
        actor_entropy=0.0, actor_entropy_final=0.0, actor_grad_mix=0.1, actor_grad_mix_final=0.0
    )

    def losses(inside, outside):
        rollout = case.imagine(actor=inside)
        acs = {
            name: replace(case.agent.behaviors[0].ac, actor_grad=kind)
            for name, kind in kinds.items()
        }
        return {
            name: actor_loss(ac, outside, rollout, hypers, jnp.zeros(()))[0]
            for name, ac in acs.items()
        }

    actor = case.params["actor"]
    grads = jax.device_get(jax.jit(jax.jacrev(losses, (0, 1)))(actor, actor))
    (straight_through, nothing), (_, reinforce) = grads["no_policy_reinforce"], grads["base"]
    found = nonzero({"inside": straight_through, "outside": reinforce, "nowhere": nothing})
    assert found == {"inside", "outside"}
    for name in ("mixed_gradients", "schedules"):
        inside, outside = grads[name]
        jax.tree.map(lambda a, b: close(a, 0.1 * b), inside, straight_through)
        jax.tree.map(lambda a, b: close(a, 0.9 * b), outside, reinforce)
