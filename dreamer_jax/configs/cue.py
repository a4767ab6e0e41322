"""Cue: a choice that depends on what was seen a number of steps ago, which only memory solves.

Command:   python experiments/train.py --config=configs/cue.py:20 --workdir=runs/cue
Argument:  :<delay>  steps from the cue to the choice; 20 if it is left out
Variants:  :<delay>,plain  the reward's loss has weight 1 instead of 20
           :<delay>,debug  a few updates, to exercise every part; does not learn
What:      two seeds with small networks on vectors. No observation after the first depends on the
           cue, so nothing but the reward's loss asks the world model to keep it. A sequence is a
           whole episode, and the latents are small: variables that carry nothing are sampled all
           the same, and with 16 of 16 classes their noise drowns the cue.
Expected:  an evaluation return of 1.0, the best possible, for both seeds: with a delay of 20 after
           4,000 steps, with 10 or 3 after 2,000. Whoever does not remember the cue gets 0.
Tried:     weight 1 (delay 20, 20,000 steps) and 16 variables of 16 classes (delay 3, 4,000 steps;
           9,000 with sequences of 15 steps across episodes) stay at chance:
           experiments/results/cue.md.
Runtime:   17,500 steps took 5 min 47 s of one core's time.
"""

from dreamer_jax.config.config import default_config
from dreamer_jax.configs import presets
from dreamer_jax.errors import UsageError, lookup

VARIANTS = {"plain": {"loss_scales": {"reward": 1.0}}, "debug": presets.SHORT}


def get_config(arg: str = ""):
    """Return the config of the run.

    Args:
        arg: '', a delay, or a delay and a variant, as '20,plain'.
    """
    delay, *variants = (arg or "20").split(",")
    if not (delay.isdecimal() and int(delay)):
        raise UsageError(
            f"argument of the config cue is {arg!r}; allowed: a delay of at least 1 step and a "
            f"variant ({', '.join(VARIANTS)}), as in cue:20,plain"
        )
    config = default_config()
    config.task = f"cue:{delay}"
    config.update(presets.SMALL)
    config.update(
        {
            "steps": 20_000,
            "batch": 16,
            "length": int(delay) + 2,  # a whole episode
            "prefill": 1_000,
            "pretrain": 200,
            "train_every": 4,
            "log_every": 500,
            "eval_every": 2_000,
            "video_every": 0,
            "video_context": 2,  # of the delay + 2 observations of an episode
            "checkpoint_every": 5_000,
            "rssm": {"stoch": 4, "classes": 4},
            **presets.dense(["vector", "discount_head"], 2, 64),
            "loss_scales": {"reward": 20.0},
            "model_lr": 1e-3,
            "actor_lr": 3e-4,
            "critic_lr": 1e-3,
            "actor_entropy": 0.05,
            "replay": {"sampling": "episodes", "capacity": 100_000},
        }
    )
    for variant in variants:
        config.update(lookup(VARIANTS, variant, "variant of the config cue"))
    return config
