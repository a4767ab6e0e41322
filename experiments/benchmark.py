"""Measure the update of a config: `dreamer-jax benchmark`, without installing it."""

import sys

from dreamer_jax.commands.main import main

if __name__ == "__main__":
    main(["benchmark", *sys.argv[1:]])
