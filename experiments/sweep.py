"""Run the jobs of a sweep: `dreamer-jax sweep`, without installing it."""

import sys

from dreamer_jax.commands.main import main

if __name__ == "__main__":
    main(["sweep", *sys.argv[1:]])
