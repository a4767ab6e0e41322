"""One member's agent as pure functions: `init`, `policy_step`, `explore_step`, `train_step`,
`report`.

No member knows of the others; members.py turns each function into many members.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from dreamer_jax.behavior.actor_critic import ActorCritic
from dreamer_jax.behavior.base import Behavior, PosteriorBatch
from dreamer_jax.behavior.dreamer import Dreamer
from dreamer_jax.behavior.exploration import Exploration
from dreamer_jax.errors import UsageError
from dreamer_jax.model import rssm as rssm_lib
from dreamer_jax.model.distributions import SampleFn, from_noise, take_mode
from dreamer_jax.model.world_model import (
    WorldModel,
    WorldModelOutput,
    init_world_model,
    prepare_action,
    prepare_obs,
    world_model_loss,
)
from dreamer_jax.optimizer import step_group
from dreamer_jax.types import (
    Array,
    Batch,
    Hypers,
    Metrics,
    Params,
    PolicyCarry,
    RSSMState,
    TrainState,
)

CONTEXT = 5  # steps that `report` filters before it predicts


@dataclass(frozen=True)
class Agent:
    """Everything about an agent that is code: modules, optimizers, sizes."""

    wm: WorldModel
    behaviors: tuple[Behavior, ...]  # all learn; the first acts on the task, the last explores
    exploration: Exploration
    optimizers: Mapping[str, optax.GradientTransformationExtraArgs]  # by group
    obs_shapes: Mapping[str, tuple[tuple[int, ...], str]]  # key -> shape and dtype of one entry
    max_nonfinite: int  # updates in a row that may be skipped before a member is frozen

    @property
    def ac(self) -> ActorCritic:
        """Actor and critic of the task.

        Raises:
            UsageError: the task is not learned by any.
        """
        task = self.behaviors[0]
        if not isinstance(task, Dreamer):
            raise UsageError("this needs an actor and a critic; allowed: behavior = 'dreamer'")
        return task.ac


def init(agent: Agent, key: Array, hypers: Hypers) -> TrainState:
    """Initial state of one member from one key."""
    groups = [group for behavior in agent.behaviors for group in behavior.groups]
    model_key, *keys, run_key = jax.random.split(key, 2 + len(groups))
    obs = {k: jnp.zeros((1, *shape), dtype) for k, (shape, dtype) in agent.obs_shapes.items()}
    params = {"model": init_world_model(agent.wm, model_key, prepare_obs(obs))}
    feat = agent.wm.feature(agent.wm.rssm.initial((1,)))
    for behavior in agent.behaviors:
        own, keys = keys[: len(behavior.groups)], keys[len(behavior.groups) :]
        params |= behavior.init(own, feat)
    return TrainState(
        params=params,
        # A copy: with donated buffers no array may stand in the state twice.
        slow_critic=jax.tree.map(jnp.copy, params.get("critic", {})),
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
    """Filter one observation and choose an action for the task.

    The latent is drawn from the posterior; so is the action from its distribution, unless
    `greedy`: then it is the mode.

    Args:
        params: by group; obs: raw entries [E, ...]; is_first: [E] bool, resets the carry.

    Returns:
        The next carry and actions [E, A], one-hot or in [-1, 1].
    """
    state, keys = _filter_obs(agent, params, carry, obs, is_first, sample)
    choose = take_mode if greedy else sample
    action = agent.behaviors[0].act(agent.wm, params, state, keys.action, sample=choose)
    return PolicyCarry(state=state, action=action, key=keys.carry), action


def explore_step(
    agent: Agent,
    params: Mapping[str, Params],
    carry: PolicyCarry,
    obs: Mapping[str, Array],
    is_first: Array,
    update: Array,
    *,
    sample: SampleFn = from_noise,
) -> tuple[PolicyCarry, Array]:
    """`policy_step` for collecting experience: the exploring behaviour's action, with noise.

    Args:
        update: scalar count of updates made, for the noise's schedule.
    """
    state, keys = _filter_obs(agent, params, carry, obs, is_first, sample)
    action = agent.behaviors[-1].act(agent.wm, params, state, keys.action, sample=sample)
    action = agent.exploration(action, keys.exploration, update)
    return PolicyCarry(state=state, action=action, key=keys.carry), action


class _PolicyKeys(NamedTuple):
    carry: Array  # of the next step
    latent: Array
    action: Array
    exploration: Array


def _filter_obs(
    agent: Agent,
    params: Mapping[str, Params],
    carry: PolicyCarry,
    obs: Mapping[str, Array],
    is_first: Array,
    sample: SampleFn,
) -> tuple[RSSMState, _PolicyKeys]:
    """The posterior state [E, ...] after an observation, and the keys of this step."""
    keys = _PolicyKeys(*jax.random.split(carry.key, 4))
    wm = agent.wm
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
        wm.rssm.latent.noise(keys.latent, is_first.shape),
        sample=sample,
    )
    return state, keys


def train_step(
    agent: Agent,
    state: TrainState,
    batch: Batch,
    *,
    start: RSSMState | None = None,
    sample: SampleFn = from_noise,
) -> tuple[TrainState, RSSMState, Metrics]:
    """One update of the world model and of everything that learns inside it.

    The world model is updated first; imagination runs with its new weights from the old
    posteriors, all B*T of them (Hafner et al. 2021, Section 2).

    Args:
        batch: [B, T, ...]; start: [B, ...] state before the sequences, zeros if None.
        sample: how samples are taken, from noise or as the mode.

    Returns:
        The new state, the last posterior state [B, ...], and scalar metrics.
    """
    key, model_key, *keys = jax.random.split(state.key, 2 + len(agent.behaviors))
    if start is None:
        start = agent.wm.rssm.initial(batch.reward.shape[:1])
    state, filtered, metrics = update_model(agent, state, batch, start, model_key, sample)
    action = prepare_action(batch.action, agent.wm.rssm.action_size)
    replayed = PosteriorBatch(filtered.states, action, batch.is_first, batch.is_terminal)
    for behavior, own in zip(agent.behaviors, keys, strict=True):
        state, more = behavior.learn(
            agent.wm, agent.optimizers, state, replayed, own, sample=sample
        )
        metrics |= more
    last = jax.tree.map(lambda x: x[:, -1], filtered.states)
    return state.replace(key=key, update=state.update + 1), last, metrics


def update_model(
    agent: Agent, state: TrainState, batch: Batch, start: RSSMState, key: Array, sample: SampleFn
) -> tuple[TrainState, WorldModelOutput, Metrics]:
    """Update the world model on a batch [B, T, ...] of sequences that begin at `start` [B, ...].

    Returns:
        The new state, the posteriors (without gradient), and metrics.
    """
    b, t = batch.reward.shape
    noise = agent.wm.rssm.latent.noise(key, (t, b))

    def loss_fn(params):
        return world_model_loss(agent.wm, params, batch, noise, start, state.hypers, sample=sample)

    grads, (filtered, metrics) = jax.grad(loss_fn, has_aux=True)(state.params["model"])
    state, norm = step_group(agent.optimizers, state, "model", grads, state.hypers.model_lr)
    return state, filtered, metrics | {"model_grad_norm": norm}


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
