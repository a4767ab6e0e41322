"""Settings that several configs share."""

from collections.abc import Iterable

HEADS = ("reward_head", "discount_head", "actor", "critic")


def dense(names: Iterable[str], layers: int, units: int) -> dict[str, dict[str, int]]:
    """Return settings that give each of the named networks `layers` hidden layers of `units`."""
    return {name: {"layers": layers, "units": units} for name in names}


# A short run of tiny networks on a full-size task, to exercise every part. Each config adds its own
# steps and heads.
TINY = {
    "seeds": 2,
    "pretrain": 2,
    "batch": 4,
    "length": 10,
    "eval_every": 0,
    "eval_episodes": 1,
    "video_every": 0,
    "horizon": 5,
    "cnn_depth": 4,
    "rssm": {"stoch": 8, "deter": 32, "hidden": 32},
    "replay": {"sampling": "time", "capacity": 5_000},
}
TINY_CATEGORICAL = TINY | {"rssm": TINY["rssm"] | {"classes": 8}}

# Small networks, and batches that fit the short episodes of the embedded tasks.
SMALL = {
    "seeds": 2,
    "batch": 8,
    "length": 12,
    "eval_episodes": 50,
    "horizon": 8,
    "cnn_depth": 4,
    "rssm": {"deter": 64, "hidden": 64},
    **dense(("reward_head", "actor", "critic"), 2, 64),
    "discount": 0.95,
    "replay": {"sampling": "time"},
}
# A few updates on an embedded task, to exercise every part. Such a run does not learn.
SHORT = {"steps": 400, "prefill": 100, "pretrain": 2, "eval_episodes": 4}
