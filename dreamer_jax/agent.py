"""One member's agent as pure functions: `init`, `policy_step`, `train_step`, `report`.

No member knows of the others; members.py turns each function into many members.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from dreamer_jax.behavior.actor_critic import ActorCritic, actor_loss, critic_loss, roll_out
from dreamer_jax.model import rssm as rssm_lib
from dreamer_jax.model.distributions import SampleFn, from_noise, take_mode
from dreamer_jax.model.world_model import (
    Filtered,
    WorldModel,
    init_world_model,
    prepare_action,
    prepare_obs,
    world_model_loss,
)
from dreamer_jax.optimizer import apply_gradients
from dreamer_jax.train_state import TrainState
from dreamer_jax.types import Array, Batch, Hypers, Metrics, Params, PolicyCarry, RSSMState

CONTEXT = 5  # steps that `report` filters before it predicts


@dataclass(frozen=True)
class Agent:
    """Everything about an agent that is code: modules, optimizers, sizes."""

    wm: WorldModel
    ac: ActorCritic
    optimizers: Mapping[str, optax.GradientTransformationExtraArgs]  # by group
    obs_shapes: Mapping[str, tuple[tuple[int, ...], str]]  # key -> shape and dtype of one entry
    slow_critic_every: int  # updates between copies of the critic
    max_nonfinite: int  # updates in a row that may be skipped before a member is frozen


def init(agent: Agent, key: Array, hypers: Hypers) -> TrainState:
    """Initial state of one member from one key."""
    model_key, actor_key, critic_key, run_key = jax.random.split(key, 4)
    obs = {k: jnp.zeros((1, *shape), dtype) for k, (shape, dtype) in agent.obs_shapes.items()}
    model = init_world_model(agent.wm, model_key, prepare_obs(obs))
    feat = agent.wm.feature(agent.wm.rssm.initial((1,)))
    params = {
        "model": model,
        "actor": agent.ac.actor.init(actor_key, feat)["params"],
        "critic": agent.ac.critic.init(critic_key, feat)["params"],
    }
    return TrainState(
        params=params,
        # A copy: with donated buffers no array may stand in the state twice.
        slow_critic=jax.tree.map(jnp.copy, params["critic"]),
        opt_states={name: agent.optimizers[name].init(params[name]) for name in params},
        hypers=jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), hypers),
        key=run_key,
        update=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        nonfinite=jnp.zeros((), jnp.int32),
    )


def init_policy(agent: Agent, key: Array, num_envs: int) -> PolicyCarry:
    """The carry before the first observation of `num_envs` environments."""
    rssm = agent.wm.rssm
    action = jnp.zeros((num_envs, rssm.action_size))
    return PolicyCarry(state=rssm.initial((num_envs,)), action=action, key=key)


def policy_step(
    agent: Agent,
    params: Mapping[str, Params],
    carry: PolicyCarry,
    obs: Mapping[str, Array],
    is_first: Array,
    *,
    greedy: bool = False,
    sample: SampleFn = from_noise,
) -> tuple[PolicyCarry, Array]:
    """Filter one observation and choose an action.

    The latent is drawn from the posterior; the action is drawn in training and the mode of its
    distribution when `greedy`.

    Args:
        params: by group; obs: raw entries [E, ...]; is_first: [E] bool, resets the carry.

    Returns:
        The next carry and actions [E, A], one-hot or in [-1, 1].
    """
    key, latent_key, action_key = jax.random.split(carry.key, 3)
    wm, shape = agent.wm, is_first.shape
    embed = wm.embed(params["model"], prepare_obs(obs))
    rssm_params = params["model"]["rssm"]
    projected = wm.rssm.apply({"params": rssm_params}, embed, method="project_embed")
    state, _ = rssm_lib.obs_step(
        wm.rssm,
        rssm_params,
        carry.state,
        carry.action,
        projected,
        is_first,
        wm.rssm.latent.noise(latent_key, shape),
        sample=sample,
    )
    dist = agent.ac.act(params["actor"], wm.feature(state))
    choose = take_mode if greedy else sample
    action = choose(dist, agent.ac.policy.noise(action_key, shape, wm.rssm.action_size))
    return PolicyCarry(state=state, action=action, key=key), action


def train_step(
    agent: Agent,
    state: TrainState,
    batch: Batch,
    *,
    start: RSSMState | None = None,
    sample: SampleFn = from_noise,
) -> tuple[TrainState, RSSMState, Metrics]:
    """One update of world model, actor and critic (Hafner et al. 2021, Section 2).

    The world model is updated first; imagination runs with its new weights from the old
    posteriors, all B*T of them.

    Args:
        batch: [B, T, ...]; start: [B, ...] state before the sequences, zeros if None.
        sample: how samples are taken, from noise or as the mode.

    Returns:
        The new state, the last posterior state [B, ...], and scalar metrics.
    """
    key, model_key, behavior_key = jax.random.split(state.key, 3)
    if start is None:
        start = agent.wm.rssm.initial(batch.reward.shape[:1])
    state, filtered, metrics = update_model(agent, state, batch, start, model_key, sample)
    starts = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), filtered.states)
    is_terminal = batch.is_terminal.reshape(-1)
    state, more = update_behavior(agent, state, starts, is_terminal, behavior_key, sample)
    # Hard copy after update 0 and every `slow_critic_every` updates from there.
    copy = state.update % agent.slow_critic_every == 0
    slow_critic = jax.tree.map(
        lambda new, old: jnp.where(copy, new, old), state.params["critic"], state.slow_critic
    )
    state = state.replace(key=key, update=state.update + 1, slow_critic=slow_critic)
    last = jax.tree.map(lambda x: x[:, -1], filtered.states)
    return state, last, metrics | more


def update_model(
    agent: Agent, state: TrainState, batch: Batch, start: RSSMState, key: Array, sample: SampleFn
) -> tuple[TrainState, Filtered, Metrics]:
    """Update the world model on a batch [B, T, ...] of sequences that begin at `start` [B, ...].

    Returns:
        The new state, the posteriors (without gradient), and metrics.
    """
    b, t = batch.reward.shape
    noise = agent.wm.rssm.latent.noise(key, (t, b))

    def loss_fn(params):
        return world_model_loss(agent.wm, params, batch, noise, start, state.hypers, sample=sample)

    grads, (filtered, metrics) = jax.grad(loss_fn, has_aux=True)(state.params["model"])
    state, norm = _apply(agent, state, "model", grads, state.hypers.model_lr)
    return state, filtered, metrics | {"model_grad_norm": norm}


def update_behavior(
    agent: Agent,
    state: TrainState,
    starts: RSSMState,
    is_terminal: Array,
    key: Array,
    sample: SampleFn,
) -> tuple[TrainState, Metrics]:
    """Update actor and critic on one imagination from `starts` [N, ...], is_terminal [N] bool."""
    ac, hypers = agent.ac, state.hypers
    noise = ac.draw_noise(key, agent.wm.rssm.latent, is_terminal.shape[0])

    def imagined(actor_params):
        return roll_out(
            ac,
            agent.wm,
            state.params["model"],
            actor_params,
            state.slow_critic,
            starts,
            is_terminal,
            noise,
            hypers,
            sample=sample,
        )

    # Reinforce needs no gradient through imagination: rolling out here, outside of the gradient,
    # keeps no residuals of the H steps.
    outside = None if ac.actor_grad.through_dynamics else imagined(state.params["actor"])

    def actor_loss_fn(actor_params):
        rollout = imagined(actor_params) if outside is None else outside
        loss, metrics = actor_loss(ac, actor_params, rollout, hypers, state.update)
        return loss, (rollout, metrics)

    actor_grads, (rollout, actor_metrics) = jax.grad(actor_loss_fn, has_aux=True)(
        state.params["actor"]
    )
    critic_grads, critic_metrics = jax.grad(
        lambda params: critic_loss(ac, params, rollout), has_aux=True
    )(state.params["critic"])
    state, actor_norm = _apply(agent, state, "actor", actor_grads, hypers.actor_lr)
    state, critic_norm = _apply(agent, state, "critic", critic_grads, hypers.critic_lr)
    norms = {"actor_grad_norm": actor_norm, "critic_grad_norm": critic_norm}
    return state, actor_metrics | critic_metrics | norms


def _apply(
    agent: Agent, state: TrainState, group: str, grads: Params, lr: Array
) -> tuple[TrainState, Array]:
    """Step one parameter group. Returns: the new state and the gradient norm before the clip."""
    params, opt_state, norm = apply_gradients(
        agent.optimizers[group], grads, state.opt_states[group], state.params[group], lr
    )
    state = state.replace(
        params={**state.params, group: params},
        opt_states={**state.opt_states, group: opt_state},
    )
    return state, norm


def report(
    agent: Agent, params: Mapping[str, Params], batch: Batch, key: Array, *, context: int = CONTEXT
) -> dict[str, tuple[Array, Array]]:
    """Open-loop prediction: filter `context` steps, then predict under the replayed actions.

    Args:
        batch: [B, T, ...] with T > context.

    Returns:
        Per image key the truth and the prediction, float32 [B, T, 64, 64, C] in [0, 1]; the
        first `context` frames of the prediction are reconstructions.
    """
    wm, model = agent.wm, params["model"]
    observe_key, predict_key = jax.random.split(key)
    obs = prepare_obs(batch.obs)
    action = prepare_action(batch.action, wm.rssm.action_size)
    b, t = batch.reward.shape
    latent = wm.rssm.latent
    embed = wm.embed(model, {k: x[:, :context] for k, x in obs.items()})
    states, _, _ = rssm_lib.observe(
        wm.rssm,
        model["rssm"],
        embed,
        action[:, :context],
        batch.is_first[:, :context],
        latent.noise(observe_key, (context, b)),
        wm.rssm.initial((b,)),
        sample=from_noise,
    )
    last = jax.tree.map(lambda x: x[:, -1], states)
    noise = latent.noise(predict_key, (t - context, b))
    future, _ = rssm_lib.open_loop(
        wm.rssm,
        model["rssm"],
        action[:, context:],
        batch.is_first[:, context:],
        noise,
        last,
        sample=from_noise,
    )
    joined = jax.tree.map(lambda x, y: jnp.concatenate([x, y], 1), states, future)
    means = wm.decode(model, wm.feature(joined))
    images = [k for k in means if means[k].ndim == 5]
    return {k: (obs[k] + 0.5, jnp.clip(means[k] + 0.5, 0, 1)) for k in images}
