"""One member's agent as pure functions; members.py maps each of them over many members."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from dreamer_jax.behavior.base import Behavior, PosteriorBatch
from dreamer_jax.behavior.exploration import Exploration
from dreamer_jax.model.distributions import SampleFn, from_noise, take_mode
from dreamer_jax.model.normalization import init_stats, standardize, update_stats
from dreamer_jax.model.world_model import (
    WorldModel,
    init_world_model,
    prepare_action,
    prepare_obs,
    world_model_loss,
)
from dreamer_jax.optimizer import step_group
from dreamer_jax.runtime import Backend
from dreamer_jax.types import (
    STATS,
    Array,
    Batch,
    Hypers,
    Params,
    PolicyCarry,
    RSSMState,
    TrainState,
    Update,
)


@dataclass(frozen=True)
class Agent:
    """Modules, optimizers and settings of an agent, and the backend that they were chosen for."""

    wm: WorldModel
    behaviors: tuple[Behavior, ...]  # all learn; the first acts on the task, the last explores
    exploration: Exploration
    optimizers: Mapping[str, optax.GradientTransformationExtraArgs]  # by group
    obs_shapes: Mapping[str, tuple[tuple[int, ...], str]]  # shape and dtype of each entry
    normalized: Mapping[str, int]  # vectors that are standardised, with their sizes
    max_nonfinite: int  # consecutive non-finite updates that freeze a member
    context: int  # observed steps before an open-loop prediction
    backend: Backend


def init(agent: Agent, key: Array, hypers: Hypers) -> TrainState:
    """Return the initial state of one member."""
    obs = {k: jnp.zeros((1, *shape), dtype) for k, (shape, dtype) in agent.obs_shapes.items()}
    params = {"model": init_world_model(agent.wm, _named_key(key, "model"), prepare_obs(obs))}
    feat = agent.wm.feature(agent.wm.rssm.initial((1,)))
    for behavior in agent.behaviors:
        params |= behavior.init([_named_key(key, group) for group in behavior.groups], feat)
    groups = tuple(params)
    if agent.normalized:
        params[STATS] = init_stats(agent.normalized)
    return TrainState(
        params=params,
        # A copy, because no array may be donated twice.
        slow_critic=jax.tree.map(jnp.copy, params.get("critic", {})),
        opt_states={name: agent.optimizers[name].init(params[name]) for name in groups},
        hypers=jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), hypers),
        key=_named_key(key, "updates of the run"),
        update=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        nonfinite=jnp.zeros((), jnp.int32),
    )


def _named_key(key: Array, name: str) -> Array:
    """Return the key of something that has a name, whatever else there is."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def init_policy(agent: Agent, key: Array, num_envs: int) -> PolicyCarry:
    """Return the carry before the first observation of `num_envs` environments."""
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

    Args:
        params: parameters by group.
        carry: carry of the last step.
        obs: raw observation entries [E, ...].
        is_first: [E] bool, True resets the carry.
        greedy: take the mode of the action distribution.
        sample: sampling rule of the latent, and of the action unless `greedy`.

    Returns:
        The next carry, and actions [E, A], one-hot (per factor) or in [-1, 1].
    """
    next_key, latent_key, action_key, _ = jax.random.split(carry.key, 4)
    state = _filter_obs(agent, params, carry, obs, is_first, latent_key, sample)
    choose = take_mode if greedy else sample
    action = agent.behaviors[0].act(agent.wm, params, state, action_key, sample=choose)
    return PolicyCarry(state=state, action=action, key=next_key), action


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
    """Filter one observation and choose the exploring behaviour's action, with noise.

    `update`, the number of updates made, sets the amount of noise. The other arguments and the
    results are those of `policy_step`.
    """
    next_key, latent_key, action_key, noise_key = jax.random.split(carry.key, 4)
    state = _filter_obs(agent, params, carry, obs, is_first, latent_key, sample)
    action = agent.behaviors[-1].act(agent.wm, params, state, action_key, sample=sample)
    action = agent.exploration(action, noise_key, update)
    return PolicyCarry(state=state, action=action, key=next_key), action


def read_obs(params: Mapping[str, Params], obs: Mapping[str, Array]) -> dict[str, Array]:
    """Standardise the vectors that have statistics, and prepare all entries for the networks."""
    return prepare_obs(standardize(params[STATS], obs) if STATS in params else obs)


def _filter_obs(
    agent: Agent,
    params: Mapping[str, Params],
    carry: PolicyCarry,
    obs: Mapping[str, Array],
    is_first: Array,
    key: Array,
    sample: SampleFn,
) -> RSSMState:
    """Return the posterior state [E, ...] after an observation."""
    wm = agent.wm
    embed = wm.embed(params["model"], read_obs(params, obs))
    variables = {"params": params["model"]["rssm"]}
    projected = wm.rssm.apply(variables, embed, method="project_embed")
    noise = wm.rssm.latent.noise(key, is_first.shape)
    args = (carry.state, carry.action, projected, is_first, noise)
    return wm.rssm.apply(variables, *args, sample=sample, method="obs_step")[0]


def train_step(
    agent: Agent, state: TrainState, batch: Batch, *, sample: SampleFn = from_noise
) -> tuple[TrainState, dict[str, Update]]:
    """Update the world model, then the behaviours that learn inside it.

    Imagination runs with the world model's new weights from the posteriors of its old ones, all
    B*T of them (Hafner et al. 2021, Section 2).

    Returns:
        The new state, and the outcome of the update by parameter group.
    """
    key, model_key, *keys = jax.random.split(state.key, 2 + len(agent.behaviors))
    start = agent.wm.rssm.initial(batch.reward.shape[:1])
    state, posteriors, update = update_model(agent, state, batch, start, model_key, sample)
    action = prepare_action(batch.action, agent.wm.rssm.action_size, agent.wm.factors)
    replayed = PosteriorBatch(posteriors, action, batch.is_first, batch.is_terminal)
    state, updates = update_behaviors(agent, state, replayed, keys, sample)
    return state.replace(key=key, update=state.update + 1), {"model": update, **updates}


def update_model(
    agent: Agent, state: TrainState, batch: Batch, start: RSSMState, key: Array, sample: SampleFn
) -> tuple[TrainState, RSSMState, Update]:
    """Update the world model on a batch [B, T, ...] of sequences that follow `start` [B, ...].

    Returns:
        The new state, the posterior states [B, T, ...] without gradient, and the update's outcome.
    """
    b, t = batch.reward.shape
    noise = agent.wm.rssm.latent.noise(key, (t, b))
    if STATS in state.params:
        stats = update_stats(state.params[STATS], batch.obs)
        state = state.replace(params={**state.params, STATS: stats})
        batch = batch.replace(obs=standardize(stats, batch.obs))

    def loss_fn(params):
        return world_model_loss(agent.wm, params, batch, noise, start, state.hypers, sample=sample)

    value_and_grad = jax.value_and_grad(loss_fn, has_aux=True)
    (loss, (posteriors, metrics)), grads = value_and_grad(state.params["model"])
    state, norm = step_group(agent.optimizers, state, "model", grads, state.hypers.model_lr)
    return state, posteriors, Update(loss, norm, metrics)


def update_behaviors(
    agent: Agent,
    state: TrainState,
    replayed: PosteriorBatch,
    keys: Sequence[Array],
    sample: SampleFn,
) -> tuple[TrainState, dict[str, Update]]:
    """Update every behaviour on a filtered batch, each with its own key.

    Returns:
        The new state, and the outcomes by parameter group.

    Raises:
        ValueError: a behaviour does not report one update for each of its groups.
    """
    updates: dict[str, Update] = {}
    for behavior, key in zip(agent.behaviors, keys, strict=True):
        args = (agent.wm, agent.optimizers, state, replayed, key)
        state, learned = behavior.learn(*args, sample=sample)
        if set(learned) != set(behavior.groups):
            raise ValueError(
                f"{type(behavior).__name__}.learn returned updates of the groups "
                f"{sorted(learned)}; required: {sorted(behavior.groups)}"
            )
        updates |= learned
    return state, updates


def predict_reward(agent: Agent, params: Mapping[str, Params], carry: PolicyCarry) -> Array:
    """Return the rewards [E], after the transform, that the model predicts for a carry's states."""
    return agent.wm.predict_reward(params["model"], agent.wm.feature(carry.state))


def value(agent: Agent, params: Mapping[str, Params], carry: PolicyCarry) -> Array | None:
    """Return the critic's values [E] of the states in a carry; None without a critic."""
    return agent.behaviors[0].value(agent.wm, params, carry.state)
