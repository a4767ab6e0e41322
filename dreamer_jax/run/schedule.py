"""The schedule of a run: functions of the config and of agent steps per member, nothing else.

`updates_due` and `explores` also take a traced `env_step`.
"""

from ml_collections import ConfigDict


def updates_due(config: ConfigDict, env_step: int) -> int:
    """Return how many updates should have been made after `env_step` steps."""
    times = (env_step - config.prefill) // config.train_every
    return (env_step >= config.prefill) * (config.pretrain + times * config.train_updates)


def explores(config: ConfigDict, env_step: int) -> bool:
    """Return whether the policy still explores after `env_step` steps."""
    return config.expl.until == 0 or env_step < config.expl.until


def work_due(config: ConfigDict, env_step: int) -> list[str]:
    """Return the names of the work due at `env_step`, in the order in which to do it.

    One step of the loop advances `env_step` by E, so an interval is due when it was reached or
    crossed. At the end of the run everything is due, including the missing updates.
    """
    if env_step >= config.steps:
        return ["log", "updates", "evaluation", "pictures", "checkpoint"]
    return _interval_work(config, env_step)


def final_work(config: ConfigDict, env_step: int) -> list[str]:
    """Return the work due if the run ends at a step whose work by intervals has been done."""
    is_logged = "log" in _interval_work(config, env_step)
    return [name for name in work_due(config, config.steps) if not (name == "log" and is_logged)]


def _interval_work(config: ConfigDict, env_step: int) -> list[str]:
    before = env_step - config.env.num_envs
    intervals = _intervals(config)
    return [
        name for name, every in intervals.items() if every and env_step // every > before // every
    ]


def next_due(config: ConfigDict, env_step: int) -> int:
    """Return the first number of steps after `env_step` at which work is due."""
    next_ones = ((env_step // every + 1) * every for every in _intervals(config).values() if every)
    return min(config.steps, *next_ones)


def _intervals(config: ConfigDict) -> dict[str, int]:
    return {
        "log": config.log_every,
        "evaluation": config.eval_every,
        "pictures": config.video_every,
        "checkpoint": config.checkpoint_every,
    }


def video_length(config: ConfigDict) -> int:
    """Return T, the steps of open-loop videos.

    Fewer than `config.video_length` where the replay's streams are not that long when the first
    video is drawn. The length never changes, since every other one is another compiled program.
    """
    first = max(config.prefill, min(config.video_every or config.steps, config.steps))
    return min(config.video_length, min(first, config.replay.capacity) // config.env.num_envs)


def replay_slack(config: ConfigDict) -> int:
    """Return the number of records that a stream's ring has beyond its capacity."""
    slack = config.replay.slack
    steps = -(-config.replay.capacity // 5) if slack is None else slack
    return -(-steps // config.env.num_envs) + 2 * replay_margin(config)


def replay_margin(config: ConfigDict) -> int:
    """Return a bound on the records per stream from a draw to the checkpoint with its indices."""
    return 100 + 4 * -(-config.train_every // config.env.num_envs)
