"""Show the progress of runs in the terminal: `dreamer-jax watch`, without installing it."""

import sys

from dreamer_jax.commands.main import main

if __name__ == "__main__":
    main(["watch", *sys.argv[1:]])
