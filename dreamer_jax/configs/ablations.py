r"""Ablations of DreamerV2 on Atari: each changes one component.

Command:   python experiments/train.py --config=configs/ablations.py:pong,no_image_gradients \
               --workdir=runs/pong_no_image
Sweep:     python experiments/sweep.py --config=configs/ablations.py:pong --workdir=runs/ablations
           the unchanged agent and every ablation, as a job each
Variants:  :<game>            the agent of configs/atari.py, unchanged
           :<game>,<ablation>, then variants of configs/atari.py, separated by commas
           no_layer_norm          no layer norm in the GRU
           no_reward_gradients    the reward loss does not train the model's states
           no_discrete_latents    Gaussian latents, as many as there were categorical ones
           no_kl_balancing        the KL trains prior and posterior at the same rate
           no_policy_reinforce    straight-through gradients alone train the actor
           no_image_gradients     the image loss does not train the model's states
           mixed_gradients        reinforce with a tenth of straight-through gradients
           schedules              mixed_gradients, with this share and the entropy bonus annealed
                                  over the first 10M frames
What:      Table 2 of Hafner et al. 2021, and its comparison of actor gradients (configs/atari.py
           uses reinforce alone).
Expected:  the paper's scores. Not reproduced here at full length.
Runtime:   as configs/atari.py.
"""

from collections.abc import Callable
from typing import Any

from dreamer_jax.configs import atari
from dreamer_jax.errors import UsageError, lookup

ANNEAL_STEPS = 2_500_000  # agent steps that the schedules take: 10M frames
ABLATIONS = {
    "no_layer_norm": {"rssm": {"gru_norm": False}},
    "no_reward_gradients": {"grad_heads": {"reward": False}},
    "no_discrete_latents": {"rssm": {"latent": "gaussian"}},
    "no_kl_balancing": {"kl_loss": "plain"},
    "no_policy_reinforce": {"actor_grad": "dynamics"},
    "no_image_gradients": {"grad_heads": {"observation": False}},
    "mixed_gradients": {"actor_grad": "both", "actor_grad_mix": 0.1},
    "schedules": {
        "actor_grad": "both",
        "actor_grad_mix": 0.1,
        "actor_grad_mix_final": 0.0,
        "actor_entropy": 3e-3,
        "actor_entropy_final": 3e-4,
    },
}


def get_config(arg: str = ""):
    """Return the config of an ablation.

    Args:
        arg: '<game>', an ablation, and variants of configs/atari.py, all separated by commas.
    """
    game, *rest = arg.split(",")
    if not game:
        raise UsageError(
            "the config ablations needs a game, and an ablation unless it is swept, as in "
            "--config=ablations:pong,no_layer_norm"
        )
    ablations = [name for name in rest[:1] if name not in atari.VARIANTS]
    config = atari.get_config(",".join([game, *rest[len(ablations) :]]))
    for name in ablations:
        lookup(ABLATIONS, name, "ablation")
        config.update(changes(name, config.train_every))
    return config


def changes(name: str, train_every: int) -> dict[str, Any]:
    """Return the overrides of an ablation, for a run with this many agent steps per update."""
    annealed = {"anneal_updates": ANNEAL_STEPS // train_every} if name == "schedules" else {}
    return ABLATIONS[name] | annealed


def sweep(add: Callable[..., None], arg: str) -> None:
    """Add the agent of `get_config(arg)`, and every ablation of it."""
    train_every = get_config(arg).train_every
    add()
    for name in ABLATIONS:
        add(**changes(name, train_every))
