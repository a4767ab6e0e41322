"""Train the same run on one device, and resumed on 8, on all and on 2 devices.

test_devices.py starts it in a process with 8 virtual devices. Argument: an empty directory. Prints
one JSON object.
"""

import json
import sys
import warnings
from pathlib import Path

import jax
from conftest import SHALLOW, make_tiny_config
from killing import rows
from member_runs import killed_after

from dreamer_jax import evaluate, load, train


def main(directory: Path) -> None:
    jax.config.update("jax_disable_most_optimizations", True)
    changes = {"seeds": 2, "batch": 4, "length": 8, "steps": 140, "eval_every": 60, "horizon": 2}
    changes |= {"video_every": 70, "log_every": 20, "devices": 1}
    config = make_tiny_config(**changes, **SHALLOW, members={"kl_scale": (0.1,)})
    train(config, directory / "one")
    with killed_after(72):
        train(config, directory / "many")
    config.devices = 8  # from step 50 on
    with killed_after(62):
        train(config, directory / "many")
    config.devices = 2  # from step 100 on
    result = train(config, directory / "many")
    print(
        json.dumps(
            {
                "one": rows(directory / "one"),
                "many": rows(directory / "many"),
                "final": result["members"],
                "evaluated": evaluate(directory / "many", episodes=2, member=1)["members"],
                "loaded": load(directory / "many", member=1).seed,
                "videos": len(list((directory / "many" / "videos").glob("*.gif"))),
            }
        )
    )


if __name__ == "__main__":
    warnings.simplefilter("error")
    main(Path(sys.argv[1]))
