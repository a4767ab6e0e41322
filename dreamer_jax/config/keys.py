"""The config keys that every run has, with default, unit and meaning.

Defaults are those of DreamerV2 for Atari (Hafner et al. 2021, Appendix D). A 'step' is one decision
of the agent in one environment; 'agent steps' are counted over all environments of a member. Keys
of a single behaviour, explorer, noise, latent or objective are declared where it is registered.
"""

from dreamer_jax import behavior, model
from dreamer_jax.behavior.actor_critic import ACTOR_GRADS, POLICIES
from dreamer_jax.behavior.base import BEHAVIORS, EXPLORERS
from dreamer_jax.behavior.exploration import NOISES
from dreamer_jax.behavior.returns import RETURNS
from dreamer_jax.model.kl import KL_LOSSES
from dreamer_jax.model.latents import LATENTS
from dreamer_jax.model.objectives import OBJECTIVES
from dreamer_jax.model.ops.activations import ACTIVATIONS
from dreamer_jax.model.ops.convolutions import FORMULATIONS
from dreamer_jax.model.world_model import REWARD_TRANSFORMS
from dreamer_jax.replay.samplers import SAMPLERS
from dreamer_jax.schema import (
    KEYS,
    Key,
    boolean,
    choice,
    declare,
    import_modules,
    integer,
    number,
    optional,
    pattern,
    seeds,
    text,
    values,
)
from dreamer_jax.types import Hypers

RUN = {
    "task": Key("catch", text(), "environment, such as catch, atari:<game>, dmc:<task>, gym:<id>"),
    "seeds": Key(1, seeds(), "number of seeds (0, 1, ...), or a list of them"),
    "devices": Key(
        0,
        integer(0),
        "devices used, the first of the process; 0: all, or CPU cores that divide the members",
    ),
    "steps": Key(50_000_000, integer(1), "agent steps per member, including the prefill"),
    "prefill": Key(50_000, integer(0), "agent steps per member with random actions at the start"),
    "pretrain": Key(1, integer(0), "updates right after the prefill"),
    "train_every": Key(4, integer(1), "agent steps per member between rounds of updates"),
    "train_updates": Key(1, integer(1), "consecutive updates per round"),
    "batch": Key(50, integer(1), "B, sequences per batch"),
    "length": Key(50, integer(2), "L, steps per sequence"),
    "log_every": Key(10_000, integer(1), "agent steps per member between log lines"),
    "eval_every": Key(
        250_000, integer(0), "agent steps per member between evaluations; 0: at the end only"
    ),
    "eval_episodes": Key(10, integer(0), "greedy episodes per member and evaluation; 0: none"),
    "video_every": Key(
        250_000, integer(0), "agent steps between open-loop videos; 0: at the end only"
    ),
    "checkpoint_every": Key(0, integer(0), "agent steps between checkpoints; 0: by time only"),
    "checkpoint_minutes": Key(10.0, number(), "minutes between checkpoints; 0: by steps only"),
    "checkpoint_keep": Key(2, integer(1), "number of the newest checkpoints that are kept"),
    "checkpoint_keep_every": Key(
        0, integer(0), "agent steps between checkpoints that are kept for evaluation; 0: none"
    ),
    "max_nonfinite": Key(
        100, integer(1), "consecutive non-finite updates before a member is frozen"
    ),
}
ENVIRONMENTS = {
    "env.num_envs": Key(1, integer(1), "E, environments per member"),
    "env.workers": Key(0, integer(0), "processes that step environments; 0: the main process"),
    "env.timeout": Key(
        60.0, number(1e-3), "seconds for a step or reset before the worker is replaced"
    ),
    "env.max_faults": Key(
        10, integer(0), "environments that may fail and be replaced within an hour"
    ),
    "env.action_repeat": Key(1, integer(1), "frames per agent step"),
    "env.time_limit": Key(
        0, integer(0), "frames after which episodes are truncated; 0: the environment's own limit"
    ),
    "env.sticky": Key(
        0.25, number(0, 1), "Atari: probability that a frame repeats the previous action"
    ),
    "env.noops": Key(30, integer(0), "Atari: largest number of no-op frames at a reset"),
}
REPLAY = {
    "replay.capacity": Key(2_000_000, integer(1), "most recent agent steps kept per member"),
    "replay.slack": Key(
        None,
        optional(integer(1)),
        "further agent steps kept to restore checkpoints; None: a fifth of the capacity",
    ),
    "replay.sampling": Key(
        "episodes",
        choice(SAMPLERS),
        "sequences drawn uniformly over episodes (with or without favouring their ends) or steps",
    ),
    "replay.storage": Key(
        "disk",
        choice(("disk", "memory")),
        "memory-mapped in the work directory, or in memory and lost with the process",
    ),
}
WORLD_MODEL = {
    "cnn_keys": Key(".*", pattern(), "names of the image observations used"),
    "mlp_keys": Key(".*", pattern(), "names of the vector observations used"),
    "act": Key("elu", choice(ACTIVATIONS), "activation of dense layers"),
    "cnn_act": Key("elu", choice(ACTIVATIONS), "activation of convolutions"),
    "norm": Key(False, boolean(), "layer normalisation before every hidden activation"),
    "compute_dtype": Key("float32", choice(("float32", "bfloat16")), "of matrix multiplications"),
    "conv": Key("auto", choice(FORMULATIONS, "auto"), "formulation of convolutions"),
    "objective": Key("reconstruction", choice(OBJECTIVES), "what the representation learns from"),
    "reward_transform": Key(
        "tanh", choice(REWARD_TRANSFORMS), "applied to rewards before they are predicted"
    ),
    "rssm.latent": Key("categorical", choice(LATENTS), "kind of latent"),
    "rssm.stoch": Key(32, integer(1), "Z, latent variables"),
    "rssm.deter": Key(600, integer(1), "D, GRU units"),
    "rssm.hidden": Key(600, integer(1), "units of the RSSM's hidden layers"),
    "rssm.gru_norm": Key(True, boolean(), "layer normalisation in the GRU"),
    "cnn_depth": Key(48, integer(1), "channels of the first convolution"),
    "vector.layers": Key(4, integer(1), "hidden layers of the vector encoder and decoder"),
    "vector.units": Key(400, integer(1), "units of these layers"),
    "reward_head.layers": Key(4, integer(0), "hidden layers of the reward predictor"),
    "reward_head.units": Key(400, integer(1), "units of these layers"),
    "discount_head.enabled": Key(
        True, boolean(), "predict the ends of episodes; otherwise gamma everywhere"
    ),
    "discount_head.layers": Key(4, integer(0), "hidden layers of the discount predictor"),
    "discount_head.units": Key(400, integer(1), "units of these layers"),
    "loss_scales.reward": Key(1.0, number(), "weight of the reward loss"),
    "loss_scales.discount": Key(5.0, number(), "weight of the discount loss"),
    "grad_heads.observation": Key(True, boolean(), "whether the objective's loss trains states"),
    "grad_heads.reward": Key(True, boolean(), "whether the reward loss trains states"),
    "grad_heads.discount": Key(True, boolean(), "whether the discount loss trains states"),
    "kl_loss": Key("balanced", choice(KL_LOSSES), "KL balancing, or a plain KL"),
    "free_avg": Key(True, boolean(), "clamp the mean KL at the free nats, not the KL of each step"),
}
BEHAVIOR = {
    "behavior": Key("dreamer", choice(BEHAVIORS), "how actions are chosen for the task"),
    "horizon": Key(15, integer(2), "H, imagined steps"),
    "actor.layers": Key(4, integer(0), "hidden layers of the actor"),
    "actor.units": Key(400, integer(1), "units of these layers"),
    "actor.dist": Key(
        "auto",
        choice(POLICIES, "auto"),
        "distribution of actions; auto: onehot if discrete, else trunc_normal",
    ),
    "actor_grad": Key("reinforce", choice(ACTOR_GRADS), "estimator of the actor's gradient"),
    "returns": Key("lambda", choice(RETURNS), "targets of actor and critic"),
    "critic.layers": Key(4, integer(0), "hidden layers of the critic"),
    "critic.units": Key(400, integer(1), "units of these layers"),
}
EXPLORATION = {
    "expl.behavior": Key(
        "task", choice(EXPLORERS, "task"), "what acts in training: the task's behaviour or another"
    ),
    "expl.noise": Key("none", choice(NOISES), "noise on actions in training, after the prefill"),
    "expl.amount": Key(0.3, number(), "standard deviation of normal noise, or epsilon"),
    "expl.amount_final": Key(
        None, optional(number()), "amount after the annealing; None: constant"
    ),
    "expl.anneal_updates": Key(200_000, integer(1), "updates from amount to amount_final"),
    "expl.until": Key(
        0, integer(0), "agent steps per member until exploration ends, with prefill; 0: never"
    ),
}
# Members may differ in these, see types.Hypers.
HYPERS = {
    "model_lr": Key(2e-4, number(), "learning rate of the world model"),
    "actor_lr": Key(4e-5, number(), "learning rate of the actor"),
    "critic_lr": Key(1e-4, number(), "learning rate of the critic"),
    "kl_scale": Key(0.1, number(), "beta, weight of the KL loss"),
    "kl_balance": Key(0.8, number(0, 1), "alpha, share of the KL's gradient that trains the prior"),
    "free_nats": Key(0.0, number(), "nats below which the KL has no gradient"),
    "actor_entropy": Key(1e-3, number(), "eta, weight of the entropy bonus"),
    "actor_entropy_final": Key(None, optional(number()), "eta after the annealing; None: constant"),
    "actor_grad_mix": Key(
        0.1, number(0, 1), "rho, share of dynamics backpropagation in actor_grad 'both'"
    ),
    "actor_grad_mix_final": Key(
        None, optional(number(0, 1)), "rho after the annealing; None: constant"
    ),
    "anneal_updates": Key(2_500_000, integer(1), "updates from a value to its *_final"),
    "discount": Key(0.999, number(0, 1), "gamma"),
    "lambda_": Key(0.95, number(0, 1), "lambda of the lambda-return"),
}
OPTIMIZER = {
    "opt.clip": Key(100.0, number(1e-12), "largest global norm of a gradient"),
    "opt.eps": Key(1e-5, number(1e-12), "Adam's epsilon"),
    "opt.decay": Key(1e-6, number(0, 0.999), "share of every weight subtracted per update"),
}
WANDB = {
    "wandb.mode": Key(
        "disabled",
        choice(("disabled", "offline", "online")),
        "whether to report to Weights & Biases: one run per member, and one of their aggregates",
    ),
    "wandb.project": Key("dreamer_jax", text(), "project of the runs"),
    "wandb.entity": Key(None, optional(text()), "user or team; None: your default"),
    "wandb.group": Key(
        None, optional(text()), "name of the sweep; None: the name of the work directory"
    ),
    "wandb.tags": Key(
        "", text(), "tags of all runs beside task, behavior and objective, such as a,b"
    ),
}
MEMBERS = {
    f"members.{name}": Key(None, optional(values(HYPERS[name].kind)), f"values of {name}")
    for name in Hypers.__dataclass_fields__
} | {
    "members.paired": Key(
        False,
        boolean(),
        "entry i of seeds and of every list is member i; otherwise all combinations",
    ),
}

for package in (model, behavior):
    import_modules(package)
declare(RUN | ENVIRONMENTS | REPLAY | WORLD_MODEL | BEHAVIOR | EXPLORATION)
declare(HYPERS | OPTIMIZER | WANDB | MEMBERS)

# The keys that may change when a run is resumed: they do not affect what is learned from there on.
RUN_KEYS = frozenset(
    ("devices", "steps", "log_every", "video_every", "env.workers", "env.timeout", "env.max_faults")
    + tuple(name for name in KEYS if name.startswith(("checkpoint_", "wandb.")))
)
