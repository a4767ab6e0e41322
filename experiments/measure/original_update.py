"""Time updates of the original TensorFlow implementation when told to; a child of `original.py`.

It runs in an environment that has TensorFlow and the original's requirements, and imports nothing
of this project. Arguments: the directory `dreamerv2` of the original's checkout, and as JSON what
differs from its settings for Atari, by flat name, the sizes of a batch and the number of actions.
After two updates it prints the number of parameters. For each line that it reads, which is a number
of updates, it then prints the list of their seconds.
"""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace


def main() -> None:
    source, arguments = sys.argv[1:]
    replies, sys.stdout = sys.stdout, sys.stderr  # the original prints
    sys.path.insert(0, source)
    import agent as original
    import common
    import numpy as np
    import ruamel.yaml
    import tensorflow as tf

    given = json.loads(arguments)
    configs = ruamel.yaml.YAML(typ="safe").load((Path(source) / "configs.yaml").read_text())
    config = common.Config(configs["defaults"]).update(configs["atari"]).update(given["settings"])

    rng = np.random.default_rng(0)
    batch, length = given["batch"], given["length"]
    image = tuple(given["image"])
    data = {
        "image": rng.integers(0, 256, (batch, length, *image), np.uint8),
        "action": np.eye(given["actions"], dtype=np.float32)[
            rng.integers(0, given["actions"], (batch, length))
        ],
        "reward": rng.normal(size=(batch, length)).astype(np.float32),
        "is_first": np.zeros((batch, length), bool),
        "is_last": np.zeros((batch, length), bool),
        "is_terminal": np.zeros((batch, length), bool),
    }
    data = {key: tf.convert_to_tensor(value) for key, value in data.items()}
    spaces = {key: SimpleNamespace(shape=value.shape[2:]) for key, value in data.items()}
    action = SimpleNamespace(shape=(given["actions"],), n=given["actions"])
    agent = original.Agent(config, spaces, {"action": action}, common.Counter(0))
    train = common.CarryOverState(agent.train)

    def update() -> float:
        start = time.perf_counter()
        metrics = train(data)
        float(metrics["model_loss"])  # waits
        return time.perf_counter() - start

    for _ in range(2):  # both traced functions: without a state, and with one
        update()
    trained = (agent.wm, agent._task_behavior.actor, agent._task_behavior.critic)
    variables = [variable for part in trained for variable in part.trainable_variables]
    size = sum(int(np.prod(v.shape)) for v in variables if v.dtype.is_floating)  # not the step
    print(size, file=replies, flush=True)
    for line in sys.stdin:
        print(json.dumps([update() for _ in range(int(line))]), file=replies, flush=True)


if __name__ == "__main__":
    main()
