"""Build an agent from a config; the code that it is made of knows no config keys."""

import math
import re
from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax.numpy as jnp
from ml_collections import ConfigDict

from dreamer_jax.agent.agent import Agent
from dreamer_jax.behavior.actor_critic import (
    ACTOR_GRADS,
    POLICIES,
    ActorCritic,
    factored_policy,
)
from dreamer_jax.behavior.base import BEHAVIORS, EXPLORERS, Behavior, Parts
from dreamer_jax.behavior.exploration import (
    CONTINUOUS_ONLY,
    NOISES,
    Exploration,
    random_draw,
)
from dreamer_jax.behavior.returns import RETURNS
from dreamer_jax.errors import UsageError
from dreamer_jax.model.kl import KL_LOSSES
from dreamer_jax.model.latents import LATENTS
from dreamer_jax.model.networks import MLP, Decoder, Encoder
from dreamer_jax.model.objectives import OBJECTIVES, ObjectiveParts
from dreamer_jax.model.ops.activations import ACTIVATIONS
from dreamer_jax.model.ops.convolutions import make_formulation
from dreamer_jax.model.rssm import RSSM
from dreamer_jax.model.world_model import REWARD_TRANSFORMS, WorldModel
from dreamer_jax.optimizer import make_optimizer
from dreamer_jax.runtime import Backend
from dreamer_jax.types import ActionSpec

ObsShapes = Mapping[str, tuple[tuple[int, ...], str]]  # entry -> shape and dtype

# Losses are named after what they predict, so no entry of an observation may have these names.
LOSSES = ("discount", "kl", "model", "reward")


class ObsKeys(NamedTuple):
    """The entries of the observation that the agent uses."""

    images: dict[str, int]  # name -> channels
    vectors: dict[str, int]  # name -> size
    grids: dict[str, tuple[int, int, int]]  # name -> height, width, channels


def select_keys(cnn_keys: str, mlp_keys: str, obs_shapes: ObsShapes, size: int = 64) -> ObsKeys:
    """Choose the images and grids whose names match `cnn_keys`, and the vectors for `mlp_keys`.

    Args:
        size: height and width of images, in pixels.

    Raises:
        UsageError: no entry matches in full, an entry has the name of a loss, an image another
            size, or a grid not the size of the others.
    """
    images = {k: s[-1] for k, (s, d) in obs_shapes.items() if d == "uint8" and len(s) == 3}
    grids = {k: s for k, (s, d) in obs_shapes.items() if d == "bool"}
    vectors = {k: s[0] for k, (s, d) in obs_shapes.items() if k not in {**images, **grids}}
    chosen = ObsKeys(
        {k: n for k, n in images.items() if re.fullmatch(cnn_keys, k)},
        {k: n for k, n in vectors.items() if re.fullmatch(mlp_keys, k)},
        {k: s for k, s in grids.items() if re.fullmatch(cnn_keys, k)},
    )
    if not any(chosen):
        raise UsageError(
            f"config.cnn_keys = {cnn_keys!r} and config.mlp_keys = {mlp_keys!r} match no name in "
            f"full; the environment has images {sorted(images)}, grids {sorted(grids)} and vectors "
            f"{sorted(vectors)}."
        )
    for key in sorted({*chosen.images, *chosen.vectors, *chosen.grids}.intersection(LOSSES)):
        raise UsageError(
            f"observation {key!r} has the name of another loss: rename it, or exclude it by "
            f"config.cnn_keys and config.mlp_keys; reserved are {', '.join(LOSSES)}."
        )
    for key in chosen.images:
        if obs_shapes[key][0][:2] != (size, size):
            raise UsageError(
                f"observation {key!r} is {obs_shapes[key][0]}; images must be {size}x{size} "
                "pixels, by config.env.size."
            )
    if len({shape[:2] for shape in chosen.grids.values()}) > 1:
        raise UsageError(
            f"the grids {chosen.grids} must have one height and width: exclude others by "
            "config.cnn_keys, or read them as vectors by config.env.grids."
        )
    return chosen


def make_agent(
    config: ConfigDict, obs_shapes: ObsShapes, action: ActionSpec, backend: Backend
) -> Agent:
    """Build the agent of a valid config for an environment's spaces and a backend.

    Raises:
        UsageError: the config does not suit the spaces.
    """
    keys = select_keys(config.cnn_keys, config.mlp_keys, obs_shapes, config.env.size)
    used = {k: obs_shapes[k] for k in (*keys.images, *keys.vectors, *keys.grids)}
    normalize = config.vector.normalize
    normalized = {k: n for k, n in keys.vectors.items() if re.fullmatch(normalize, k)}
    if normalize and not normalized:
        raise UsageError(
            f"config.vector.normalize = {normalize!r} matches no name in full; the agent observes "
            f"the vectors {sorted(keys.vectors)}."
        )
    optimizer = make_optimizer(clip=config.opt.clip, eps=config.opt.eps, decay=config.opt.decay)
    wm = _make_world_model(config, keys, action, backend)
    behaviors = _make_behaviors(config, action, math.prod(wm.rssm.latent.shape))
    groups = ["model", *(group for behavior in behaviors for group in behavior.groups)]
    for key in sorted({*used}.intersection(groups)):
        raise UsageError(
            f"observation {key!r} has the name of what config.behavior learns, so that both would "
            f"be reported as {key}_loss: rename it, or exclude it by config.cnn_keys and "
            f"config.mlp_keys; reserved are {', '.join(groups)}."
        )
    return Agent(
        wm=wm,
        behaviors=behaviors,
        exploration=_make_exploration(config, action),
        optimizers=dict.fromkeys(groups, optimizer),
        obs_shapes=used,
        normalized=normalized,
        max_nonfinite=config.max_nonfinite,
        context=config.video_context,
        backend=backend,
    )


def _shared_settings(config: ConfigDict) -> dict:
    """Return the arguments that all networks share."""
    dtype = jnp.dtype(config.compute_dtype)
    return {"act": ACTIVATIONS[config.act], "norm": config.norm, "dtype": dtype}


def _make_mlp(config: ConfigDict, layers: int, units: int, outputs: int) -> MLP:
    return MLP(layers=layers, units=units, outputs=outputs, **_shared_settings(config))


def _make_world_model(
    config: ConfigDict, keys: ObsKeys, action: ActionSpec, backend: Backend
) -> WorldModel:
    shared = _shared_settings(config)
    coder = {
        "image_size": config.env.size,
        "depth": config.cnn_depth,
        "mlp_layers": config.vector.layers,
        "mlp_units": config.vector.units,
        "grid_depth": config.grid.depth,
        "grid_layers": config.grid.layers,
        "grid_units": config.grid.units,
        "cnn_act": ACTIVATIONS[config.cnn_act],
        "formulation": make_formulation(config.conv, backend),
        **shared,
    }
    latent = LATENTS.bind(config.rssm.latent, config)(config.rssm.stoch)
    encoder = Encoder(tuple(keys.images), tuple(keys.vectors), tuple(keys.grids), **coder)
    decoder = Decoder(keys.images, keys.vectors, keys.grids, **coder)
    parts = ObjectiveParts(encoder, decoder, math.prod(latent.shape) + config.rssm.deter)
    objective = OBJECTIVES.bind(config.objective, config)(parts)
    reward, discount = config.reward_head, config.discount_head
    loss_scales = {name: config.loss_scales[name] for name in ("reward", "discount")}
    return WorldModel(
        encoder=encoder,
        rssm=RSSM(
            latent=latent,
            deter=config.rssm.deter,
            hidden=config.rssm.hidden,
            action_size=action.size,
            embed_size=encoder.embed_size,
            gru_norm=config.rssm.gru_norm,
            unroll=backend.unroll,
            **shared,
        ),
        objective=objective,
        reward=_make_mlp(config, reward.layers, reward.units, 1),
        discount=(
            _make_mlp(config, discount.layers, discount.units, 1) if discount.enabled else None
        ),
        reward_transform=REWARD_TRANSFORMS[config.reward_transform],
        loss_scales={**loss_scales, **objective.loss_scales},
        kl_loss=KL_LOSSES[config.kl_loss],
        free_avg=config.free_avg,
        grad_heads=frozenset(name for name, trains in config.grad_heads.items() if trains),
        factors=action.factors,
    )


def _make_actor_critic(config: ConfigDict, action: ActionSpec) -> ActorCritic:
    names = [name for name, kind in POLICIES.items() if kind.discrete == action.discrete]
    name = names[0] if config.actor.dist == "auto" else config.actor.dist
    if name not in names:
        kind = "discrete" if action.discrete else "continuous"
        raise UsageError(
            f"config.actor.dist is {name!r}, but the environment's {action.size} actions are "
            f"{kind}; allowed: {' or '.join(['auto', *names])}."
        )
    actor, critic = config.actor, config.critic
    policy = factored_policy(action.factors) if action.factors else POLICIES[name]
    return ActorCritic(
        actor=_make_mlp(config, actor.layers, actor.units, policy.outputs_per_action * action.size),
        critic=_make_mlp(config, critic.layers, critic.units, 1),
        policy=policy,
        actor_grad=ACTOR_GRADS[config.actor_grad],
        returns=RETURNS[config.returns],
        horizon=config.horizon,
        action_size=action.size,
    )


def _make_behaviors(
    config: ConfigDict, action: ActionSpec, latent_size: int
) -> tuple[Behavior, ...]:
    parts = Parts(
        action=action,
        latent_size=latent_size,
        make_mlp=partial(_make_mlp, config),
        make_actor_critic=partial(_make_actor_critic, config, action),
    )
    task = BEHAVIORS.bind(config.behavior, config)(parts)
    if config.expl.behavior not in EXPLORERS:  # the task's behaviour explores
        return (task,)
    return (task, EXPLORERS.bind(config.expl.behavior, config)(parts))


def _make_exploration(config: ConfigDict, action: ActionSpec) -> Exploration:
    expl = config.expl
    if action.discrete and expl.noise in CONTINUOUS_ONLY:
        names = [name for name in NOISES if name not in CONTINUOUS_ONLY]
        raise UsageError(
            f"config.expl.noise is {expl.noise!r}, but the environment's {action.size} actions are "
            f"discrete; allowed: {' or '.join(names)}."
        )
    return Exploration(
        noise=NOISES.bind(expl.noise, config),
        draw=random_draw(action),
        start=expl.amount,
        final=expl.amount if expl.amount_final is None else expl.amount_final,
        updates=expl.anneal_updates,
    )
