"""`python -m dreamer_jax`: the same as the command `dreamer-jax`."""

from dreamer_jax.commands.main import main

if __name__ == "__main__":
    main()
