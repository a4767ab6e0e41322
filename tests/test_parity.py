"""Every number that the original TensorFlow implementation computed, computed by ours.

The golden files are not part of the project: DREAMER_JAX_PARITY names their folder, and the tests
are skipped where it is absent. Sampling is replaced by the mode.
"""

import json
import os
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax import agent as agent_lib
from dreamer_jax.behavior.actor_critic import (
    ACTOR_GRADS,
    POLICIES,
    actor_loss,
    critic_loss,
    roll_out,
)
from dreamer_jax.behavior.returns import imagination_weight, lambda_return, linear_schedule
from dreamer_jax.build import ActionSpec, make_agent
from dreamer_jax.config import default_config, member_hypers
from dreamer_jax.model import rssm as rssm_lib
from dreamer_jax.model.distributions import (
    Gaussian,
    OneHot,
    TruncatedNormal,
    bernoulli,
    take_mode,
    unit_normal,
)
from dreamer_jax.model.latents import GaussianLatent
from dreamer_jax.model.world_model import prepare_obs, world_model_loss
from dreamer_jax.optimizer import apply_gradients, make_optimizer
from dreamer_jax.reference import assert_same_structure, import_reference
from dreamer_jax.types import Batch, RSSMState

FOLDER = Path(
    os.environ.get(
        "DREAMER_JAX_PARITY",
        Path(__file__).parents[2] / "shared" / "reference" / "parity",
    )
)
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no golden files in {FOLDER}")

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
    # The original can rescale rewards by a running magnitude; its preset leaves them as they are.
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


@pytest.fixture(scope="module")
def units():
    return load("goldens_units")


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


def test_every_golden_key_is_of_a_group_tested_here(golden, units):
    groups = {k.split("/")[0] for k in golden.arrays}
    assert groups == {"in", "var", "out", "grad", "train"}
    assert {k.split("/")[0] for k in units[0]} == {
        "lambda_return", "onehot", "trunc_normal", "distlayer", "tanh_normal", "mvn", "std_act",
        "streamnorm", "optimizer",
    }  # fmt: skip


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
    # The golden file holds 1 - is_terminal times gamma, the discount head's label.
    label = golden.config.discount * (1 - golden.batch.is_terminal.astype(jnp.float32))
    theirs = golden["out/preprocess/discount"]
    close(label if theirs.max() < 1 else label / golden.config.discount, theirs)


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
        return rssm_lib.KL_LOSSES[name](
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


@pytest.mark.parametrize("lambda_", ["0.0", "0.95", "1.0"])
def test_lambda_return(units, lambda_):
    arrays, _ = units
    reward, value, pcont, bootstrap = (
        jnp.asarray(arrays["lambda_return/" + k]) for k in ("reward", "value", "pcont", "bootstrap")
    )
    ours = lambda_return(reward, value, pcont, bootstrap, float(lambda_))
    close(ours, arrays[f"lambda_return/out_{lambda_}"])
    if lambda_ == "0.95":
        close(ours.T, arrays["lambda_return/out_0.95_axis1"])
        constant = lambda_return(reward, value, jnp.full_like(reward, 0.99), bootstrap, 0.95)
        close(constant, arrays["lambda_return/out_0.95_scalar_pcont_0.99"])


def test_onehot(units):
    a = {k[len("onehot/") :]: jnp.asarray(v) for k, v in units[0].items() if "onehot/" in k[:7]}
    logits, x = a["logits"], a["x"]
    dist = OneHot(logits)
    close(dist.log_prob(x), a["log_prob"])
    close(dist.entropy(), a["entropy"])
    close(dist.mode(), a["mode"])
    close(dist.probs, a["mean"])
    close(dist.sample_mode(), a["sample_mode_patched"])
    close(dist.kl_divergence(OneHot(a["logits2"])), a["kl"])

    def check(fn, name, arg=logits):
        close(jax.grad(lambda v: fn(v).sum())(arg), a[name], GRADIENT)

    check(lambda v: OneHot(v).sample_mode() * a["w"], "grad_sample_dot_w_wrt_logits")
    check(lambda v: OneHot(v).log_prob(x), "grad_log_prob_wrt_logits")
    check(lambda v: OneHot(v).entropy(), "grad_entropy_wrt_logits")
    check(lambda v: OneHot(v).kl_divergence(OneHot(a["logits2"])), "grad_kl_wrt_logits")
    check(lambda v: dist.kl_divergence(OneHot(v)), "grad_kl_wrt_logits2", a["logits2"])
    assert units[1]["onehot/grad_log_prob_wrt_x_is_None"]
    assert not jax.grad(lambda v: dist.log_prob(v).sum())(x).any()


def test_truncated_normal(units):
    a = {k.split("/")[1]: jnp.asarray(v) for k, v in units[0].items() if "trunc_normal/" in k[:13]}
    loc, scale, x = (a[k][..., None] for k in ("loc", "scale", "x"))

    def each(fn, *args):
        return fn(TruncatedNormal(*args))

    close(TruncatedNormal(loc, scale).log_prob(x), a["log_prob"])
    close(TruncatedNormal(loc, scale).entropy(), a["entropy"])
    close(TruncatedNormal(loc, scale).mean()[..., 0], a["mean"])
    close(TruncatedNormal(loc, scale).mode()[..., 0], a["mode"])
    for name, fn in {
        "log_prob": lambda d: d.log_prob(x).sum(),
        "entropy": lambda d: d.entropy().sum(),
    }.items():
        grads = jax.grad(lambda m, s, fn=fn: each(fn, m, s), (0, 1))(loc, scale)
        close(grads[0][..., 0], a[f"grad_{name}_wrt_loc"], GRADIENT)
        close(grads[1][..., 0], a[f"grad_{name}_wrt_scale"], GRADIENT)
    grad = jax.grad(lambda v: TruncatedNormal(loc, scale).log_prob(v).sum())(x)
    close(grad[..., 0], a["grad_log_prob_wrt_x"], GRADIENT)


def test_truncated_normal_sample_gradient(units):
    a = {k.split("/")[1]: jnp.asarray(v) for k, v in units[0].items() if "trunc_normal/" in k[:13]}
    loc, scale, sample = (a["real_sample" + k] for k in ("_loc", "_scale", ""))
    low, high = ((edge - loc) / scale for edge in (-1, 1))
    cdf = jax.scipy.stats.norm.cdf
    noise = (cdf((sample - loc) / scale) - cdf(low)) / (cdf(high) - cdf(low))

    def drawn(loc, scale):
        return TruncatedNormal(loc, scale).sample_from(noise)

    # Far in a tail float32 quantiles are coarse; the original draws in the same precision.
    np.testing.assert_allclose(drawn(loc, scale), sample, atol=1e-4)
    grads = jax.grad(lambda *v: drawn(*v).sum(), (0, 1))(loc, scale)
    np.testing.assert_allclose(grads[0], a["real_sample_grad_loc"], atol=1e-6)
    np.testing.assert_allclose(grads[1], a["real_sample_grad_scale"], atol=1e-3)


@pytest.mark.parametrize("name", ["mse0", "mse1", "binary0", "onehot1", "trunc_normal1"])
def test_distribution_layers(units, name):
    prefix = f"distlayer/{name}/"
    a = {k[len(prefix) :]: jnp.asarray(v) for k, v in units[0].items() if k.startswith(prefix)}
    x = a["x"]

    def layer(part):
        out = a["inputs"] @ a[f"var/{part}/kernel"] + a[f"var/{part}/bias"][None]
        return out[..., 0] if x.ndim == 1 else out

    kind = name[:-1]
    if kind == "mse":
        dist = unit_normal(layer("out"), x.ndim - 1)
    elif kind == "binary":
        dist = bernoulli(layer("out"))
    elif kind == "onehot":
        dist = OneHot(layer("out"))
    else:
        out = jnp.concatenate([layer("out"), layer("std")], -1)
        dist = POLICIES["trunc_normal"].make_dist(out)
    close(dist.log_prob(x), a["log_prob"])
    close(dist.entropy() if kind != "mse" else dist.log_prob(x) * 0 + dist.entropy(), a["entropy"])
    if kind == "onehot":
        close(dist.probs, a["mean"])
    elif kind == "binary":
        close(dist.probs, a["mean"])
    else:
        close(dist.mean(), a["mean"])
    close(dist.mode(), a["mode"])


def test_gaussian(units):
    a = {k.split("/")[1]: jnp.asarray(v) for k, v in units[0].items() if k.startswith("mvn/")}
    first, second = Gaussian(a["m1"], a["s1"]), Gaussian(a["m2"], a["s2"])
    close(first.kl_divergence(second), a["kl"])
    close(first.entropy(), a["entropy"])
    raw = jnp.asarray(units[0]["std_act/raw"])
    stats = GaussianLatent(13, min_std=0.1).stats(jnp.concatenate([jnp.zeros(13), raw]))
    close(stats["std"], units[0]["std_act/sigmoid2_plus_0.1"])


def test_linear_schedule(units):
    schedules = units[1]["schedule"]
    for name, args in {
        "1e-3": (1e-3, 1e-3, 1),
        "linear(1,0.1,100)": (1.0, 0.1, 100),
        "linear(3e-3,3e-4,2.5e6)": (3e-3, 3e-4, 2.5e6),
    }.items():
        for step, value in schedules[name].items():
            close(linear_schedule(*args, float(step)), np.float32(value))


@pytest.mark.parametrize("clip", ["clip_active", "clip_inactive"])
@pytest.mark.parametrize("decay", ["wd", "nowd"])
def test_optimizer(units, clip, decay):
    arrays, info = units
    a = {k: jnp.asarray(v) for k, v in arrays.items() if k.startswith("optimizer/")}
    settings = info[f"optimizer/{decay}"]
    optimizer = make_optimizer(clip=settings["clip"], eps=settings["eps"], decay=settings["wd"])
    base = f"optimizer/{clip}/"
    params = {"w": a[base + "w0"], "b": a[base + "b0"]}
    state = optimizer.init(params)
    cw, cb, tw, tb = (a[base + k] for k in ("cw", "cb", "tw", "tb"))

    def loss_fn(p):
        return 0.5 * ((cw * (p["w"] - tw) ** 2).sum() + (cb * (p["b"] - tb) ** 2).sum())

    for i in range(3):
        loss, grads = jax.value_and_grad(loss_fn)(params)
        params, state, norm = apply_gradients(optimizer, grads, state, params, settings["lr"])
        step = f"{base}{decay}/{i}/"
        close(loss, a[step + "loss"])
        close(norm, a[step + "grad_norm"], GRADIENT)
        np.testing.assert_allclose(params["w"], a[step + "w"], rtol=0, atol=WEIGHTS)
        np.testing.assert_allclose(params["b"], a[step + "b"], rtol=0, atol=WEIGHTS)
