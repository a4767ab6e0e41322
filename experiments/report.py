"""Make tables, figures and a page of runs: `dreamer-jax report`, without installing it."""

import sys

from dreamer_jax.commands.main import main

if __name__ == "__main__":
    main(["report", *sys.argv[1:]])
