"""Evaluate the members of a run: `dreamer-jax evaluate`, without installing it."""

import sys

from dreamer_jax.commands.main import main

if __name__ == "__main__":
    main(["evaluate", *sys.argv[1:]])
