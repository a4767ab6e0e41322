"""Every number that the original TensorFlow implementation computed, computed by ours.

Networks, RSSM, losses, gradients, imagination, targets and whole training steps of an agent whose
sampling is replaced by the mode; see goldens.py for where the numbers are.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import FORWARD, GRADIENT, WEIGHTS, close, load, needs_goldens

from dreamer_jax import agent as agent_lib
from dreamer_jax.behavior.actor_critic import (
    ACTOR_GRADS,
    actor_loss,
    critic_loss,
    roll_out,
)
from dreamer_jax.behavior.returns import imagination_weight
from dreamer_jax.build import ActionSpec, make_agent
from dreamer_jax.config import default_config, member_hypers
from dreamer_jax.model import rssm as rssm_lib
from dreamer_jax.model.distributions import (
    bernoulli,
    take_mode,
    unit_normal,
)
from dreamer_jax.model.kl import KL_LOSSES
from dreamer_jax.model.world_model import prepare_obs, world_model_loss
from dreamer_jax.reference import assert_same_structure, import_reference
from dreamer_jax.types import Batch, RSSMState

pytestmark = needs_goldens

# Their metric -> ours, where the names differ.
METRICS = {
    "model_kl": "kl",
    "prior_ent": "prior_entropy",
    "post_ent": "posterior_entropy",
    "actor_ent": "actor_entropy",
    "actor_ent_scale": "actor_entropy_scale",
    "reward_mean": "imagined_reward",
    "reward_std": "imagined_reward_std",
    # The original can rescale rewards by a running magnitude; its preset leaves them as they are.
    "reward_normed_mean": "imagined_reward",
    "reward_normed_std": "imagined_reward_std",
}


class Golden:
    """The Atari golden file with the agent of its configuration and its weights in it."""

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
        self.agent = make_agent(config, obs, ActionSpec(discrete=True, size=6))
        self.hypers = member_hypers(config)[0]
        self.imported = import_reference(self.prefixed("var/"))
        state = agent_lib.init(self.agent, jax.random.key(0), self.hypers)
        assert_same_structure(self.imported.params, state.params)
        assert_same_structure(self.imported.slow_critic, state.slow_critic)
        self.state = state.replace(
            params=self.imported.params, slow_critic=self.imported.slow_critic
        )
        self.model = self.imported.params["model"]
        names = ("reward", "is_first", "is_last", "is_terminal", "action")
        fields = {name: jnp.asarray(self["in/batch/" + name]) for name in names}
        self.batch = Batch(obs={"image": jnp.asarray(self["in/batch/image"])}, **fields)
        self.noise = jnp.zeros((7, 3, 4))  # the mode is taken

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


@pytest.fixture(scope="module")
def golden():
    return Golden()


def test_groups(golden):
    assert {key.split("/")[0] for key in golden.arrays} == {"in", "var", "out", "grad", "train"}


def test_parameter_counts(golden):
    counts = {k: sum(x.size for x in jax.tree.leaves(v)) for k, v in golden.imported.params.items()}
    assert counts == golden.info["counts"]


def test_embed_and_gru(golden):
    wm = golden.agent.wm
    embed = wm.embed(golden.model, prepare_obs(golden.batch.obs))
    close(embed, golden["out/embed"])
    variables = {"params": golden.model["rssm"]}
    x, h = golden["in/gru/x"], golden["in/gru/h"]
    close(wm.rssm.apply(variables, x, h, method=lambda m, x, h: m.gru(x, h)), golden["out/gru"])


def test_preprocess(golden):
    wm = golden.agent.wm
    close(wm.reward_transform(golden.batch.reward), golden["out/preprocess/reward"])
    label = golden.config.discount * (1 - golden.batch.is_terminal.astype(jnp.float32))
    close(label, golden["out/preprocess/discount"])


def test_rssm_steps(golden):
    rssm, params = golden.agent.wm.rssm, golden.model["rssm"]
    prev, action = golden.stored_state("in/step/prev"), golden["in/step/action"]
    noise = jnp.zeros((5, 4))
    state, prior = rssm_lib.img_step(rssm, params, prev, action, noise, sample=take_mode)
    golden.check_state("out/img_step", state, prior)
    projected = rssm.apply({"params": params}, golden["in/step/embed"], method="project_embed")
    is_first = jnp.asarray(golden["in/step/is_first"])
    state, posterior = rssm_lib.obs_step(
        rssm, params, prev, action, projected, is_first, noise, sample=take_mode
    )
    for name in ("obs_step", "obs_step_mode"):
        golden.check_state(f"out/{name}/post", state, posterior)
    reset, action = rssm_lib.reset_where(is_first, prev, action)
    state, prior = rssm_lib.img_step(rssm, params, reset, action, noise, sample=take_mode)
    for name in ("obs_step", "obs_step_mode"):
        golden.check_state(f"out/{name}/prior", state, prior)


@pytest.mark.parametrize(("name", "kind"), [("observe", "zero"), ("observe_carry", "carry")])
def test_observe(golden, name, kind):
    wm, batch = golden.agent.wm, golden.batch
    states, posterior, prior = rssm_lib.observe(
        wm.rssm, golden.model["rssm"], jnp.asarray(golden["out/embed"]), batch.action,
        batch.is_first, golden.noise, golden.start(kind), sample=take_mode,
    )  # fmt: skip
    golden.check_state(f"out/{name}/post", states, posterior)
    close(prior["logits"], golden[f"out/{name}/prior/logit"])
    close(states.deter, golden[f"out/{name}/prior/deter"])
    close(wm.rssm.latent.dist(prior).sample_mode(), golden[f"out/{name}/prior/stoch"])
    if kind == "zero":
        close(wm.feature(states), golden["out/feat"])


def test_open_loop(golden):
    last = jax.tree.map(lambda x: x[:, -1], golden.stored_state("out/observe/post"))
    states, prior = rssm_lib.open_loop(
        golden.agent.wm.rssm, golden.model["rssm"], golden.batch.action,
        jnp.zeros_like(golden.batch.is_first), golden.noise, last, sample=take_mode,
    )  # fmt: skip
    golden.check_state("out/rssm_imagine", states, prior)


def test_heads(golden):
    wm, ac, batch = golden.agent.wm, golden.agent.ac, golden.batch
    feat = jnp.asarray(golden["out/feat"])
    means = wm.decode(golden.model, feat)
    close(means["image"], golden["out/decoder/image"])
    likes = wm.objective(means, prepare_obs(batch.obs))
    close(likes["image"], golden["out/decoder_log_prob/image"])
    reward = wm.predict_reward(golden.model, feat)
    close(reward, golden["out/reward/mode"])
    target = wm.reward_transform(batch.reward)
    close(unit_normal(reward, 0).log_prob(target), golden["out/reward/log_prob"])
    logits = wm.discount_logits(golden.model, feat)
    close(logits, golden["out/discount/logits"])
    close(wm.predict_discount(golden.model, feat, 0.999), golden["out/discount/mean"])
    label = 0.999 * (1 - batch.is_terminal.astype(jnp.float32))
    close(bernoulli(logits).log_prob(label), golden["out/discount/log_prob"])
    policy = ac.act(golden.imported.params["actor"], feat)
    close(policy.sample_mode(), golden["out/actor/mode"])
    close(policy.entropy(), golden["out/actor/entropy"])
    theirs = golden["out/actor/logits"]
    close(policy.logits, jax.nn.log_softmax(theirs))
    close(policy.log_prob(batch.action), golden["out/actor/log_prob_of_batch_action"])
    close(ac.value(golden.imported.params["critic"], feat), golden["out/critic/mode"])
    close(ac.value(golden.imported.slow_critic, feat), golden["out/target_critic/mode"])


@pytest.mark.parametrize(
    "setting",
    ["bal8_free0_avg", "bal5_free3", "bal8_free1_avg", "bal8_free1_noavg", "fwd_bal8_free0_avg"],
)
def test_kl(golden, setting):
    theirs = golden.info["kl_settings"][setting]
    latent = golden.agent.wm.rssm.latent

    def loss(post_logits, prior_logits):
        post, prior, balance = {"logits": post_logits}, {"logits": prior_logits}, theirs["balance"]
        if theirs["forward"]:  # KL(prior || post), which is ours with the roles exchanged
            post, prior, balance = prior, post, 1 - balance
        # The original takes a balance of 0.5 for no balancing at all.
        name = "plain" if theirs["balance"] == 0.5 else "balanced"
        return KL_LOSSES[name](
            latent, post, prior, balance=balance, free_nats=theirs["free"],
            free_avg=theirs["free_avg"],
        )  # fmt: skip

    args = golden["out/observe/post/logit"], golden["out/observe/prior/logit"]
    (value, kl), grads = jax.value_and_grad(loss, (0, 1), has_aux=True)(*map(jnp.asarray, args))
    close(value, golden[f"out/kl/{setting}/loss"])
    close(kl, golden[f"out/kl/{setting}/value"])
    close(grads[0], golden[f"out/kl/{setting}/grad_post_logit"], GRADIENT)
    close(grads[1], golden[f"out/kl/{setting}/grad_prior_logit"], GRADIENT)


def check_metrics(ours, theirs):
    assert theirs
    for name, value in theirs.items():
        close(ours[METRICS.get(name, name)], value)


def check_grads(ours, theirs):
    """`theirs` by variable name; every one of our gradients must have its counterpart."""
    mapped = import_reference(theirs)
    assert_same_structure(mapped.params, ours)
    jax.tree.map(lambda a, b: close(a, b, GRADIENT), ours, mapped.params)


@pytest.mark.parametrize(("name", "kind"), [("loss", "zero"), ("loss_carry", "carry")])
def test_world_model_loss(golden, name, kind):
    def loss(params):
        return world_model_loss(
            golden.agent.wm, params, golden.batch, golden.noise, golden.start(kind),
            golden.hypers, sample=take_mode,
        )  # fmt: skip

    (value, (filtered, metrics)), grads = jax.value_and_grad(loss, has_aux=True)(golden.model)
    close(value, golden[f"out/{name}/model_loss"])
    check_metrics(metrics, golden.prefixed(f"out/{name}/metrics/"))
    for key, like in filtered.likes.items():
        close(like, golden[f"out/{name}/likes/{key}"])
    close(filtered.kl, golden[f"out/{name}/kl_value"])
    last = jax.tree.map(lambda x: x[:, -1], (filtered.states, filtered.posterior))
    golden.check_state(f"out/{name}/last_state", *last)
    check_grads({"model": grads}, golden.prefixed(f"grad/{name}/"))
    norm = jnp.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
    close(norm, golden[f"out/{name}/grad_norm"], GRADIENT)


def rollout_of(golden, actor_params, *, terminal=True):
    states = golden.stored_state("out/observe/post")
    starts = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), states)
    is_terminal = golden.batch.is_terminal.reshape(-1)
    ac = golden.agent.ac
    noise = ac.draw_noise(jax.random.key(0), golden.agent.wm.rssm.latent, 21)
    return roll_out(
        ac, golden.agent.wm, golden.model, actor_params, golden.imported.slow_critic, starts,
        is_terminal if terminal else jnp.zeros_like(is_terminal), noise, golden.hypers,
        sample=take_mode,
    )  # fmt: skip


def test_imagination_and_target(golden):
    rollout = rollout_of(golden, golden.imported.params["actor"])
    trajectory = rollout.trajectory
    for ours, name in [
        (trajectory.state.deter, "imagine/deter"), (trajectory.state.stoch, "imagine/stoch"),
        (trajectory.feat, "imagine/feat"), (trajectory.action, "imagine/action"),
        (rollout.discount, "imagine/discount"), (rollout.weight, "imagine/weight"),
        (rollout.reward, "imagine/reward"), (rollout.target, "target"),
    ]:  # fmt: skip
        close(ours, golden["out/" + name])
    prior = golden.agent.wm.rssm.apply(
        {"params": golden.model["rssm"]}, trajectory.state.deter[1:], method="prior"
    )
    close(prior["logits"], golden["out/imagine/logit"][1:])


def test_imagination_without_terminal_flags(golden):
    # Without flags the original predicts the first discount too.
    wm = golden.agent.wm
    rollout = rollout_of(golden, golden.imported.params["actor"], terminal=False)
    predicted = wm.predict_discount(golden.model, rollout.trajectory.feat, 0.999)
    close(predicted, golden["out/imagine_noterm/discount"])
    close(imagination_weight(predicted), golden["out/imagine_noterm/weight"])


@pytest.mark.parametrize("estimator", sorted(ACTOR_GRADS))
def test_actor_loss(golden, estimator):
    ac = replace(golden.agent.ac, actor_grad=ACTOR_GRADS[estimator])
    outside = rollout_of(golden, golden.imported.params["actor"])

    def loss(params):
        inside = rollout_of(golden, params) if ac.actor_grad.through_dynamics else outside
        return actor_loss(ac, params, inside, golden.hypers, jnp.zeros(()))

    value, grads = jax.value_and_grad(loss, has_aux=True)(golden.imported.params["actor"])
    close(value[0], golden[f"out/actor_loss/{estimator}/loss"])
    check_metrics(value[1], golden.prefixed(f"out/actor_loss/{estimator}/metrics/"))
    check_grads({"actor": grads}, golden.prefixed(f"grad/actor_loss/{estimator}/"))
    norm = jnp.sqrt(sum((g**2).sum() for g in jax.tree.leaves(grads)))
    close(norm, golden[f"out/actor_loss/{estimator}/grad_norm"], GRADIENT)


def test_critic_loss(golden):
    rollout = rollout_of(golden, golden.imported.params["actor"])
    (value, metrics), grads = jax.value_and_grad(
        lambda p: critic_loss(golden.agent.ac, p, rollout), has_aux=True
    )(golden.imported.params["critic"])
    close(value, golden["out/critic_loss/loss"])
    check_metrics(metrics, golden.prefixed("out/critic_loss/metrics/"))
    check_grads({"critic": grads}, golden.prefixed("grad/critic_loss/"))


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_policy(golden, mode):
    carry = agent_lib.init_policy(golden.agent, jax.random.key(0), 3)
    for call in range(2):
        obs = {"image": golden.batch.obs["image"][:, call]}
        carry, action = agent_lib.policy_step(
            golden.agent, golden.imported.params, carry, obs, golden.batch.is_first[:, call],
            greedy=mode == "eval", sample=take_mode,
        )  # fmt: skip
        prefix = f"out/policy/{mode}/{call}"
        close(action, golden[prefix + "/action"])
        close(carry.state.deter, golden[prefix + "/latent/deter"])
        close(carry.state.stoch, golden[prefix + "/latent/stoch"])


def test_three_whole_training_steps(golden):
    step = jax.jit(
        lambda state, start: agent_lib.train_step(
            golden.agent, state, golden.batch, start=start, sample=take_mode
        )
    )
    state, start = golden.state, golden.start("zero")
    for i in range(3):
        state, start, metrics = step(state, start)
        theirs = golden.prefixed(f"train/{i}/metrics/")
        for name, value in theirs.items():
            ours = metrics[METRICS.get(name, name)]
            if name in ("critic", "critic_slow"):  # means of values of both signs
                scale = np.abs(golden["out/critic/mode"]).max()
                np.testing.assert_allclose(ours, value, rtol=0, atol=FORWARD * scale)
            else:
                close(ours, value, GRADIENT if "grad_norm" in name else FORWARD)
        close(start.deter, golden[f"train/{i}/state/deter"])
        close(start.stoch, golden[f"train/{i}/state/stoch"])
        weights = import_reference(golden.prefixed(f"train/{i}/var/"))

        def same(ours, theirs):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=WEIGHTS)

        jax.tree.map(same, state.params, weights.params)
        jax.tree.map(same, state.slow_critic, weights.slow_critic)
