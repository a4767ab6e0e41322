"""Draw curves of runs: `dreamer-jax plot`, without installing it."""

import sys

from dreamer_jax.commands.main import main

if __name__ == "__main__":
    main(["plot", *sys.argv[1:]])
