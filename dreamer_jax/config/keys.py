"""Every config key with its default, unit and meaning.

Defaults are DreamerV2 for Atari as in the paper (Hafner et al. 2021, Appendix D). A 'step' is a
decision of the agent in one environment; 'agent steps' are summed over a member's environments.
"""

from dreamer_jax.behavior.actor_critic import ACTOR_GRADS, POLICIES
from dreamer_jax.behavior.exploration import NOISES
from dreamer_jax.behavior.returns import RETURNS
from dreamer_jax.config.schema import (
    Key,
    boolean,
    choice,
    integer,
    number,
    optional,
    pattern,
    seeds,
    text,
    values,
)
from dreamer_jax.model.kl import KL_LOSSES
from dreamer_jax.model.latents import STD_ACTS
from dreamer_jax.model.objectives import OBJECTIVES
from dreamer_jax.model.ops.activations import ACTIVATIONS
from dreamer_jax.model.ops.convolutions import FORMULATIONS
from dreamer_jax.model.world_model import REWARD_TRANSFORMS
from dreamer_jax.types import Hypers

KEYS: dict[str, Key] = {
    # The run. What members differ in besides their seeds is below, under `members`.
    "task": Key("catch", text(), "environment, as catch, atari:<game>, dmc:<task> or gym:<id>"),
    "seeds": Key(1, seeds(), "number of seeds (0, 1, ...) or a list of them"),
    "devices": Key(
        0,
        integer(0),
        "devices used, the first of this process; 0: all (of CPU cores: those that divide members)",
    ),
    "steps": Key(50_000_000, integer(1), "agent steps per member, prefill included"),
    "prefill": Key(50_000, integer(0), "agent steps per member with random actions at the start"),
    "pretrain": Key(1, integer(0), "updates right after the prefill"),
    "train_every": Key(4, integer(1), "agent steps per member from updates to the next updates"),
    "train_updates": Key(1, integer(1), "updates that are made then, one after another"),
    "batch": Key(50, integer(1), "B, sequences per batch"),
    "length": Key(50, integer(2), "L, steps per sequence"),
    "log_every": Key(10_000, integer(1), "agent steps per member between two log lines"),
    "eval_every": Key(
        250_000, integer(0), "agent steps per member between evaluations; 0: end only"
    ),
    "eval_episodes": Key(10, integer(0), "greedy episodes per member and evaluation; 0: none"),
    "video_every": Key(250_000, integer(0), "agent steps between open-loop videos; 0: at the end"),
    "checkpoint_every": Key(0, integer(0), "agent steps between checkpoints; 0: by time only"),
    "checkpoint_minutes": Key(10.0, number(), "minutes between checkpoints; 0: by steps only"),
    "checkpoint_keep": Key(2, integer(1), "newest checkpoints kept"),
    "checkpoint_keep_every": Key(
        0, integer(0), "agent steps between checkpoints kept for good, to evaluate; 0: none"
    ),
    "max_nonfinite": Key(
        100, integer(1), "updates in a row with a loss or gradient not finite that freeze a member"
    ),
    # Environments.
    "env.num_envs": Key(1, integer(1), "E, environments per member"),
    "env.workers": Key(0, integer(0), "processes that step environments; 0: in this process"),
    "env.timeout": Key(
        60.0, number(1e-3), "seconds a worker has for a step or reset before it is replaced"
    ),
    "env.max_faults": Key(
        10, integer(0), "environments that may fail and be replaced within an hour"
    ),
    "env.action_repeat": Key(1, integer(1), "frames per agent step"),
    "env.time_limit": Key(
        0, integer(0), "frames until an episode is cut; 0: the environment's own"
    ),
    "env.sticky": Key(
        0.25, number(0, 1), "Atari: probability that a frame repeats the last action"
    ),
    "env.noops": Key(30, integer(0), "Atari: largest number of no-op frames at a reset"),
    # Replay.
    "replay.capacity": Key(2_000_000, integer(1), "newest agent steps kept per member"),
    "replay.slack": Key(
        None,
        optional(integer(1)),
        "agent steps kept beyond that, so that checkpoints stay restorable; None: a fifth of it",
    ),
    "replay.sampling": Key(
        "episodes",
        choice(("episodes", "episodes_uniform", "time")),
        "uniform over episodes, their ends favoured or not, or over all time",
    ),
    "replay.storage": Key(
        "disk",
        choice(("disk", "memory")),
        "memory-mapped in the work directory, or in memory and lost with the process",
    ),
    # World model.
    "cnn_keys": Key(".*", pattern(), "image entries of the observation that are used"),
    "mlp_keys": Key(".*", pattern(), "vector entries of the observation that are used"),
    "act": Key("elu", choice(tuple(ACTIVATIONS)), "activation of dense layers"),
    "cnn_act": Key("elu", choice(tuple(ACTIVATIONS)), "activation of convolutions"),
    "norm": Key(False, boolean(), "layer norm in front of every hidden activation"),
    "compute_dtype": Key("float32", choice(("float32", "bfloat16")), "of matrix multiplications"),
    "conv": Key("auto", choice(("auto", *FORMULATIONS)), "formulation of convolutions"),
    "objective": Key("reconstruction", choice(tuple(OBJECTIVES)), "what trains representations"),
    "reward_transform": Key("tanh", choice(tuple(REWARD_TRANSFORMS)), "of the reward predicted"),
    "rssm.latent": Key("categorical", choice(("categorical", "gaussian")), "kind of latent"),
    "rssm.stoch": Key(32, integer(1), "Z, latent variables"),
    "rssm.classes": Key(32, integer(2), "K, classes per categorical latent variable"),
    "rssm.min_std": Key(0.1, number(0), "smallest std of a Gaussian latent"),
    "rssm.std_act": Key("sigmoid2", choice(tuple(STD_ACTS)), "what its std is made with"),
    "rssm.deter": Key(600, integer(1), "D, GRU units"),
    "rssm.hidden": Key(600, integer(1), "units of its hidden layers"),
    "rssm.gru_norm": Key(True, boolean(), "layer norm in the GRU"),
    "cnn_depth": Key(48, integer(1), "channels of the first convolution"),
    "vector.layers": Key(4, integer(1), "hidden layers of vector encoder and decoder"),
    "vector.units": Key(400, integer(1), "units of these"),
    "reward_head.layers": Key(4, integer(0), "hidden layers of the reward predictor"),
    "reward_head.units": Key(400, integer(1), "units of these"),
    "discount_head.enabled": Key(True, boolean(), "predict episode ends; else gamma everywhere"),
    "discount_head.layers": Key(4, integer(0), "hidden layers of the discount predictor"),
    "discount_head.units": Key(400, integer(1), "units of these"),
    "loss_scales.image": Key(1.0, number(), "weight of each image's negative log-likelihood"),
    "loss_scales.vector": Key(1.0, number(), "weight of each vector's negative log-likelihood"),
    "loss_scales.state": Key(1.0, number(), "weight of the contrastive objective"),
    "loss_scales.reward": Key(1.0, number(), "weight of the reward's"),
    "loss_scales.discount": Key(5.0, number(), "weight of the discount's"),
    "grad_heads.observation": Key(True, boolean(), "whether the objective's loss trains states"),
    "grad_heads.reward": Key(True, boolean(), "whether the reward's does"),
    "grad_heads.discount": Key(True, boolean(), "whether the discount's does"),
    "kl_loss": Key("balanced", choice(tuple(KL_LOSSES)), "KL balancing, or one KL for both sides"),
    "free_avg": Key(True, boolean(), "free nats clamp the mean KL, not every step's"),
    # Behaviour.
    "behavior": Key("dreamer", choice(("dreamer", "planet")), "how actions are chosen on the task"),
    "horizon": Key(15, integer(2), "H, imagined steps"),
    "actor.layers": Key(4, integer(0), "hidden layers of the actor"),
    "actor.units": Key(400, integer(1), "units of these"),
    "actor.dist": Key("auto", choice(("auto", *POLICIES)), "auto: onehot or trunc_normal"),
    "actor_grad": Key("reinforce", choice(tuple(ACTOR_GRADS)), "estimator of the actor gradient"),
    "returns": Key("lambda", choice(tuple(RETURNS)), "what actor and critic aim at"),
    "critic.layers": Key(4, integer(0), "hidden layers of the critic"),
    "critic.units": Key(400, integer(1), "units of these"),
    "slow_critic_every": Key(100, integer(1), "updates between copies to the slow critic"),
    "planet.horizon": Key(12, integer(1), "steps of a plan"),
    "planet.iterations": Key(10, integer(1), "fits of the cross-entropy method"),
    "planet.candidates": Key(1000, integer(1), "plans per iteration"),
    "planet.elites": Key(100, integer(2), "of them, the best that are fitted"),
    # Exploration: of the actions that are taken in training after the prefill.
    "expl.behavior": Key(
        "task", choice(("task", "plan2explore")), "what acts: the task's behaviour or an explorer"
    ),
    "expl.models": Key(10, integer(2), "plan2explore: K, models in its ensemble"),
    "expl.layers": Key(4, integer(0), "plan2explore: hidden layers of each"),
    "expl.units": Key(400, integer(1), "plan2explore: units of these"),
    "expl.intrinsic": Key(1.0, number(), "plan2explore: weight of the models' disagreement"),
    "expl.extrinsic": Key(0.0, number(), "plan2explore: weight of the task's reward"),
    "expl.noise": Key("none", choice(tuple(NOISES)), "noise on actions"),
    "expl.amount": Key(0.3, number(), "standard deviation of normal noise, or epsilon"),
    "expl.amount_final": Key(
        None, optional(number()), "amount after the annealing; None: constant"
    ),
    "expl.anneal_updates": Key(200_000, integer(1), "updates from amount to amount_final"),
    "expl.until": Key(
        0, integer(0), "agent steps per member, prefill included, with exploration; 0: all"
    ),
    # Hyperparameters that members may differ in, see types.Hypers and `members`.
    "model_lr": Key(2e-4, number(), "learning rate of the world model"),
    "actor_lr": Key(4e-5, number(), "learning rate of the actor"),
    "critic_lr": Key(1e-4, number(), "learning rate of the critic"),
    "kl_scale": Key(0.1, number(), "beta, weight of the KL loss"),
    "kl_balance": Key(0.8, number(0, 1), "alpha, share of the KL that trains the prior"),
    "free_nats": Key(0.0, number(), "nats of KL without gradient"),
    "actor_entropy": Key(1e-3, number(), "eta, weight of the entropy bonus"),
    "actor_entropy_final": Key(None, optional(number()), "eta after the annealing; None: constant"),
    "actor_grad_mix": Key(0.1, number(0, 1), "rho, share of dynamics gradients in 'both'"),
    "actor_grad_mix_final": Key(None, optional(number(0, 1)), "rho after it; None: constant"),
    "anneal_updates": Key(2_500_000, integer(1), "updates from a value to its *_final"),
    "discount": Key(0.999, number(0, 1), "gamma"),
    "lambda_": Key(0.95, number(0, 1), "lambda of the lambda-return"),
    # Optimizers.
    "opt.clip": Key(100.0, number(1e-12), "largest global norm of a gradient"),
    "opt.eps": Key(1e-5, number(1e-12), "Adam's epsilon"),
    "opt.decay": Key(1e-6, number(0, 0.999), "share of every weight taken off per update"),
    # Weights & Biases: a run per member and one of their aggregates.
    "wandb.mode": Key("disabled", choice(("disabled", "offline", "online")), "whether to report"),
    "wandb.project": Key("dreamer_jax", text(), "project of the runs"),
    "wandb.entity": Key(None, optional(text()), "user or team; None: your default"),
    "wandb.group": Key(None, optional(text()), "name of the sweep; None: the work directory's"),
    "wandb.tags": Key("", text(), "tags of every run beside task, behavior and objective, as a,b"),
    # Members, see grid.py.
    "members.paired": Key(
        False, boolean(), "entry i of `seeds` and of every list is member i; else all combinations"
    ),
}
KEYS |= {
    f"members.{name}": Key(None, optional(values(KEYS[name].kind)), f"values of {name}")
    for name in Hypers.__dataclass_fields__
}

# What may differ between the config of a work directory and that of the command that resumes it:
# none of these changes what is learned from a given step on.
RUN_KEYS = frozenset(
    ("devices", "steps", "log_every", "video_every", "env.workers", "env.timeout", "env.max_faults")
    + tuple(name for name in KEYS if name.startswith(("checkpoint_", "wandb.")))
)
