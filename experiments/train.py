"""Train all members of a config: `dreamer-jax train`, without installing it."""

import sys

from dreamer_jax.commands.main import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
