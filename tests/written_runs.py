"""Work directories written by hand: what a run leaves, without a run."""

import json


def write_run(
    path,
    *,
    task="catch",
    returns=((0.0, 1.0),),
    every=100,
    finished=True,
    hypers=None,
    logged=(),
    **config,
):
    """Write the config, metrics and summary of a run.

    Args:
        path: its directory.
        task: config.task.
        returns: the evaluations of each member, one per `every` steps; members may end earlier.
        every: steps between rows.
        finished: write a summary.
        hypers: the hyperparameters of each member.
        logged: names of further metrics in every log line.
        config: further keys; a dotted name is written with "__" for ".".
    """
    path.mkdir(parents=True)
    length = max(map(len, returns))
    content = {"task": task, "steps": length * every, "log_every": every, "env": {}}
    for name, value in {"env__action_repeat": 1, **config}.items():
        group, _, key = name.rpartition("__")
        (content.setdefault(group, {}) if group else content)[key] = value
    repeat = content["env"]["action_repeat"]
    (path / "config.json").write_text(json.dumps(content))
    with open(path / "metrics.jsonl", "w") as file:
        for index in range(length):
            step = (index + 1) * every
            for member, values in enumerate(returns):
                if index >= len(values):
                    continue
                head = {"member": member, "seed": member, "env_step": step}
                head |= {"frame": step * repeat, "update": index}
                head |= {f"hyper/{k}": v for k, v in (hypers[member] if hypers else {}).items()}
                log = {"train_return": values[index] - 1, "model_loss": 5.0 - index}
                log |= {"skipped_updates": 0, "frozen": False, "frames_per_s": 50.0}
                log = {name: 0.1 * step for name in logged} | log
                for record in (log, {"eval_return": values[index]}):
                    file.write(json.dumps(head | record) + "\n")
    if finished:
        summary = {"finished": True, "env_step": length * every, "update": length}
        (path / "summary.json").write_text(json.dumps(summary))
    return path
