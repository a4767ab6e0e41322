"""List, extract, join or add members of runs: `dreamer-jax members`, without installing it."""

import sys

from dreamer_jax.commands.main import main

if __name__ == "__main__":
    main(["members", *sys.argv[1:]])
