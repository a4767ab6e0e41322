"""The command line: `dreamer-jax train|evaluate|members|sweep|report|plot|watch|benchmark`.

- `main.py` finds the command, and turns errors into messages.
- `flags.py` parses flags, and loads the config that `--config` names.
- `train.py`, `evaluate.py`, `members.py`, `sweep.py`, `report.py`, `plot.py`, `watch.py`,
  `benchmark.py` are a command each, with its flags.
- `tables.py` formats rows as text.

Commands may import every room; nothing imports them but `experiments/`. JAX and other heavy
packages are imported once a command runs, so that `--help` answers at once. Start with `main.py`.
"""
