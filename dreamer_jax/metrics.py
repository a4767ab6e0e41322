"""The keys of metrics, as far as every room agrees on them."""

HYPER = "hyper/"  # prefix of the keys that hold a member's hyperparameters

# The metrics that curves.png shows, with their unit, in reading order: how good the agent is, how
# well it models, how it acts. Code that makes another metric adds it here with
# `PLOTTED["<metric>"] = "<unit>"`, in its own file.
PLOTTED = {
    "train_return": "",
    "eval_return": "",
    "train_length": "env steps",
    "model_loss": "",
    "image_loss": "nats",
    "reward_loss": "nats",
    "discount_loss": "nats",
    "state_loss": "nats",
    "kl": "nats",
    "kl_loss": "nats",
    "prior_entropy": "nats",
    "posterior_entropy": "nats",
    "actor_loss": "",
    "actor_entropy": "nats",
    "critic_loss": "",
    "critic": "",
    "critic_target": "",
    "imagined_reward": "",
    "ensemble_loss": "nats",
    "expl_imagined_reward": "",
}
