"""The training run: the loop, and everything that reads or writes a work directory.

    trainer      the loop: step environments, update members, log, evaluate, save; start here
    setup        what follows from a config alone: agent, environments, replay
    schedule     when updates, logs, evaluations and checkpoints are due
    driver       the environment side of the loop
    evaluation   greedy episodes, and `evaluate` for a saved run
    reporter     what people see: metrics.jsonl, terminal, curves, videos, W&B
    checkpoint   saving and restoring, exact and safe against kills at any time
    load         agents from checkpoints, for use in other code
    members      list, extract, join and add members of saved runs
    workdir      paths, and the lock of a work directory
    signals      stopping in order on SIGTERM and Ctrl-C

It may import from every other room except benchmark and cli, which are the only ones that import
from it.
"""
