"""The config keys that every run has: default, allowed values, and meaning with the unit.

Defaults are those of DreamerV2 for Atari (Hafner et al. 2021, Appendix D). An 'agent step' is one
decision of the agent in one environment; intervals and totals count those of all environments of
one member. Keys of a single behaviour, explorer, noise, latent or objective are declared where it
is registered.
"""

from dreamer_jax import behavior, model
from dreamer_jax.behavior.actor_critic import ACTOR_GRADS, POLICIES
from dreamer_jax.behavior.base import BEHAVIORS, EXPLORERS
from dreamer_jax.behavior.exploration import NOISES
from dreamer_jax.behavior.returns import RETURNS
from dreamer_jax.model.kl import KL_LOSSES
from dreamer_jax.model.latents import LATENTS
from dreamer_jax.model.networks import IMAGE_KERNELS
from dreamer_jax.model.objectives import OBJECTIVES
from dreamer_jax.model.ops.activations import ACTIVATIONS
from dreamer_jax.model.ops.convolutions import FORMULATIONS
from dreamer_jax.model.world_model import REWARD_TRANSFORMS
from dreamer_jax.replay.samplers import SAMPLERS
from dreamer_jax.schema import (
    KEYS,
    Key,
    arguments,
    boolean,
    choice,
    declare,
    import_modules,
    integer,
    number,
    one_of,
    optional,
    pattern,
    seeds,
    text,
    values,
)
from dreamer_jax.types import Hypers

RUN = {
    "task": Key(
        "catch",
        text(),
        "environment, such as catch, atari:<game>, dmc:<task>, gym:<id>, gymnax:<id>",
    ),
    "loop": Key(
        "host",
        choice(("host", "device")),
        "host: environments are stepped and recorded by this process; device: environments that "
        "are JAX programs, their replay and the updates run in one compiled program",
    ),
    "seeds": Key(1, seeds(), "number of seeds (0, 1, ...), or a list of seeds"),
    "devices": Key(
        0, integer(0), "number of devices; 0: all, on a CPU as many cores as divide the members"
    ),
    "steps": Key(50_000_000, integer(1), "agent steps in total, including the prefill"),
    "prefill": Key(50_000, integer(0), "agent steps with random actions at the start"),
    "pretrain": Key(1, integer(0), "updates right after the prefill"),
    "train_every": Key(4, integer(1), "agent steps between rounds of updates"),
    "train_updates": Key(1, integer(1), "updates per round"),
    "batch": Key(50, integer(1), "B, sequences per batch"),
    "length": Key(50, integer(2), "L, steps per sequence"),
    "log_every": Key(10_000, integer(1), "agent steps between log lines"),
    "eval_every": Key(250_000, integer(0), "agent steps between evaluations; 0: only at the end"),
    "eval_episodes": Key(10, integer(0), "greedy episodes per member and evaluation; 0: none"),
    "eval_steps": Key(
        108_000, integer(1), "agent steps after which an episode of an evaluation is cut"
    ),
    "video_every": Key(
        250_000, integer(0), "agent steps between open-loop videos; 0: only at the end"
    ),
    "video_length": Key(
        50, integer(2), "steps of a video, also where config.length is shorter; see video_context"
    ),
    "video_context": Key(5, integer(1), "steps observed before a video predicts the others"),
    "checkpoint_every": Key(0, integer(0), "agent steps between checkpoints; 0: by time only"),
    "checkpoint_minutes": Key(10.0, number(), "minutes between checkpoints; 0: by steps only"),
    "checkpoint_keep": Key(2, integer(1), "number of recent checkpoints kept"),
    "checkpoint_keep_every": Key(
        0, integer(0), "agent steps between checkpoints kept for evaluation; 0: none"
    ),
    "deterministic": Key(
        False,
        boolean(),
        "on a GPU, only operations that give the same results every time; their cost is not "
        "measured",
    ),
    "max_nonfinite": Key(
        100, integer(1, 10**9), "consecutive non-finite updates that freeze a member"
    ),
}
ENVIRONMENTS = {
    "env.num_envs": Key(1, integer(1), "E, environments per member"),
    "env.workers": Key(0, integer(0), "processes that step environments; 0: the main process"),
    "env.timeout": Key(60.0, number(1e-3), "seconds per step or reset until a worker is replaced"),
    "env.max_faults": Key(
        10, integer(0), "faults of environments within an hour; more stop the run"
    ),
    "env.action_repeat": Key(1, integer(1), "frames per agent step"),
    "env.time_limit": Key(
        0, integer(0), "frames until an episode is truncated; 0: the environment's own limit"
    ),
    "env.kwargs": Key(
        None, arguments(), "arguments of a gym: environment, such as {'map_name': '8x8'}"
    ),
    "env.eval_envs": Key(
        128, integer(1), "environments, of all members together, that an evaluation keeps open"
    ),
    "env.eval_workers": Key(
        None,
        optional(integer(0)),
        "processes that step environments of evaluations; None: env.workers, in training at least "
        "1 for make_env and gym:, since closing such environments may affect others",
    ),
    "env.size": Key(64, one_of(IMAGE_KERNELS), "height and width of images, in pixels"),
    "env.images": Key(
        None,
        optional(pattern()),
        "observations to read as images, by their whole names; None: by their spaces",
    ),
    "env.vectors": Key(
        None,
        optional(pattern()),
        "observations to read as vectors, by their whole names; None: by their spaces",
    ),
    "env.grids": Key(
        None,
        optional(pattern()),
        "observations to read as grids, small boards of zeros and ones, by their whole names; "
        "None: no observation",
    ),
    "env.sticky": Key(
        0.25, number(0, 1), "Atari: probability that a frame repeats the previous action"
    ),
    "env.noops": Key(30, integer(0), "Atari: largest number of no-op frames after a reset"),
}
REPLAY = {
    "replay.capacity": Key(2_000_000, integer(1), "recent agent steps kept per member"),
    "replay.slack": Key(
        None,
        optional(integer(1)),
        "additional agent steps kept to restore checkpoints; None: a fifth of the capacity",
    ),
    "replay.sampling": Key(
        "episodes",
        choice(SAMPLERS),
        "episodes: an episode, then a start that favours its end; episodes_uniform: any start "
        "in it; time: any step",
    ),
    "replay.storage": Key(
        "disk",
        choice(("disk", "memory")),
        "disk: mapped from the work directory or the scratch; memory: lost with the process",
    ),
    "replay.scratch": Key(
        None,
        optional(text()),
        "directory on a local disk for the replay, such as $TMPDIR; None: the work directory",
    ),
    "replay.lost": Key(
        "copy",
        choice(("copy", "refill")),
        "a replay that is not on the scratch of a resumed run: copied from the work directory, "
        "where every checkpoint copies it to; or refilled with `prefill` steps of the policy",
    ),
}
WORLD_MODEL = {
    "cnn_keys": Key(".*", pattern(), "whole names of the images and grids observed"),
    "mlp_keys": Key(".*", pattern(), "whole names of the vectors observed"),
    "act": Key("elu", choice(ACTIVATIONS), "activation of dense layers"),
    "cnn_act": Key("elu", choice(ACTIVATIONS), "activation of convolutions"),
    "norm": Key(False, boolean(), "layer normalisation before every hidden activation"),
    "compute_dtype": Key(
        "float32", choice(("float32", "bfloat16")), "data type of matrix multiplications"
    ),
    "conv": Key(
        "auto", choice(FORMULATIONS, "auto"), "formulation of convolutions; auto: by platform"
    ),
    "objective": Key(
        "reconstruction", choice(OBJECTIVES), "what states learn from, beside rewards and ends"
    ),
    "reward_transform": Key(
        "tanh", choice(REWARD_TRANSFORMS), "transform of rewards, which the model then predicts"
    ),
    "rssm.latent": Key("categorical", choice(LATENTS), "kind of latent variables"),
    "rssm.stoch": Key(32, integer(1), "Z, number of latent variables"),
    "rssm.deter": Key(600, integer(1), "D, units of the GRU"),
    "rssm.hidden": Key(600, integer(1), "units of each hidden layer of the RSSM"),
    "rssm.gru_norm": Key(True, boolean(), "layer normalisation in the GRU"),
    "cnn_depth": Key(48, integer(1), "channels of the first convolution"),
    "grid.depth": Key(16, integer(1), "channels of the convolution of the grid encoder"),
    "grid.units": Key(128, integer(1), "units of the dense layer of the grid encoder"),
    "grid.layers": Key(2, integer(0), "hidden layers of the grid decoder, each of grid.units"),
    "vector.layers": Key(4, integer(1), "hidden layers of the vector encoder, and of its decoder"),
    "vector.units": Key(400, integer(1), "units of each of these hidden layers"),
    "vector.normalize": Key(
        "",
        pattern(),
        "whole names of the vectors to standardise by running means and standard deviations",
    ),
    "reward_head.layers": Key(4, integer(0), "hidden layers of the reward predictor"),
    "reward_head.units": Key(400, integer(1), "units of each hidden layer of the reward predictor"),
    "discount_head.enabled": Key(
        True, boolean(), "whether the ends of episodes are predicted; False: gamma everywhere"
    ),
    "discount_head.layers": Key(4, integer(0), "hidden layers of the discount predictor"),
    "discount_head.units": Key(
        400, integer(1), "units of each hidden layer of the discount predictor"
    ),
    "loss_scales.reward": Key(1.0, number(), "weight of the reward loss"),
    "loss_scales.discount": Key(5.0, number(), "weight of the discount loss"),
    "grad_heads.observation": Key(True, boolean(), "whether the objective's loss trains states"),
    "grad_heads.reward": Key(True, boolean(), "whether the reward loss trains states"),
    "grad_heads.discount": Key(True, boolean(), "whether the discount loss trains states"),
    "kl_loss": Key("balanced", choice(KL_LOSSES), "KL loss, with or without KL balancing"),
    "free_avg": Key(True, boolean(), "whether free_nats bound the mean KL; False: each step's KL"),
}
BEHAVIOR = {
    "behavior": Key("dreamer", choice(BEHAVIORS), "how actions are chosen for the task"),
    "horizon": Key(15, integer(2), "H, steps of an imagined trajectory"),
    "actor.layers": Key(4, integer(0), "hidden layers of the actor"),
    "actor.units": Key(400, integer(1), "units of each hidden layer of the actor"),
    "actor.dist": Key(
        "auto",
        choice(POLICIES, "auto"),
        "distribution of actions; auto: onehot (of each factor) if discrete, else trunc_normal",
    ),
    "actor_grad": Key("reinforce", choice(ACTOR_GRADS), "estimator of the actor's gradient"),
    "returns": Key("lambda", choice(RETURNS), "returns that actor and critic learn from"),
    "critic.layers": Key(4, integer(0), "hidden layers of the critic"),
    "critic.units": Key(400, integer(1), "units of each hidden layer of the critic"),
}
EXPLORATION = {
    "expl.behavior": Key(
        "task", choice(EXPLORERS, "task"), "what acts in training; task: the behaviour of the task"
    ),
    "expl.noise": Key("none", choice(NOISES), "noise on actions in training, after the prefill"),
    "expl.amount": Key(0.3, number(), "standard deviation of normal noise, or epsilon"),
    "expl.amount_final": Key(None, optional(number()), "amount after annealing; None: constant"),
    "expl.anneal_updates": Key(200_000, integer(1), "updates from amount to amount_final"),
    "expl.until": Key(
        0, integer(0), "agent steps, with the prefill, until exploration ends; 0: never"
    ),
}
# The members of a run may differ in these (`types.Hypers`).
HYPERS = {
    "model_lr": Key(2e-4, number(), "learning rate of the world model"),
    "actor_lr": Key(4e-5, number(), "learning rate of the actor"),
    "critic_lr": Key(1e-4, number(), "learning rate of the critic"),
    "kl_scale": Key(0.1, number(), "beta, weight of the KL loss"),
    "kl_balance": Key(0.8, number(0, 1), "alpha, share of the KL's gradient that trains the prior"),
    "free_nats": Key(0.0, number(), "nats below which the KL has no gradient"),
    "actor_entropy": Key(1e-3, number(), "eta, weight of the entropy bonus"),
    "actor_entropy_final": Key(None, optional(number()), "eta after annealing; None: constant"),
    "actor_grad_mix": Key(
        0.1, number(0, 1), "rho, share of dynamics backpropagation if actor_grad is both"
    ),
    "actor_grad_mix_final": Key(
        None, optional(number(0, 1)), "rho after annealing; None: constant"
    ),
    "anneal_updates": Key(
        2_500_000, integer(1), "updates from actor_entropy and actor_grad_mix to their *_final"
    ),
    "discount": Key(0.999, number(0, 1), "gamma, discount per agent step"),
    "lambda_": Key(0.95, number(0, 1), "lambda of the lambda-return"),
}
OPTIMIZER = {
    "opt.clip": Key(100.0, number(1e-12), "global norm that gradients are clipped to"),
    "opt.eps": Key(1e-5, number(1e-12), "Adam's epsilon"),
    "opt.decay": Key(1e-6, number(0, 0.999), "weight decay: share of each weight lost per update"),
}
WANDB = {
    "wandb.mode": Key(
        "disabled",
        choice(("disabled", "offline", "online")),
        "mode of Weights & Biases, which gets a run per member, and one of their aggregates",
    ),
    "wandb.project": Key("dreamer_jax", text(), "project of the runs"),
    "wandb.entity": Key(None, optional(text()), "user or team; None: your default"),
    "wandb.group": Key(
        None, optional(text()), "group of the runs; None: the name of the work directory"
    ),
    "wandb.tags": Key("", text(), "tags beside task, behavior and objective, such as a,b"),
}
MEMBERS = {
    f"members.{name}": Key(None, optional(values(HYPERS[name].kind)), f"values of {name}")
    for name in Hypers.__dataclass_fields__
} | {
    "members.paired": Key(
        False,
        boolean(),
        "whether member i has entry i of seeds and of every list; False: all combinations",
    ),
}

for package in (model, behavior):
    import_modules(package)
declare(RUN | ENVIRONMENTS | REPLAY | WORLD_MODEL | BEHAVIOR | EXPLORATION)
declare(HYPERS | OPTIMIZER | WANDB | MEMBERS)

# The keys that may change when a run is resumed: they do not affect what it learns.
RUN_KEYS = frozenset(
    (
        "devices",
        "steps",
        "log_every",
        "video_every",
        "video_length",
        "video_context",
        "env.workers",
        "env.timeout",
        "env.max_faults",
    )
    + ("env.eval_envs", "env.eval_workers", "replay.scratch", "replay.lost")
    + tuple(name for name in KEYS if name.startswith(("checkpoint_", "wandb.")))
)
