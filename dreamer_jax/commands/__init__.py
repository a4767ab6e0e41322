"""The command line: `dreamer-jax train|evaluate|members|benchmark`.

- `main.py` finds the command, sets up the process, and turns errors into messages.
- `flags.py` parses flags, and loads the config that `--config` names.
- `train.py`, `evaluate.py`, `members.py`, `benchmark.py`: a command each, with its flags.

Commands may import every room; nothing imports them but `experiments/`. What is heavy, JAX above
all, is imported once a command runs, so that `--help` answers at once. Start with `main.py`.
"""
