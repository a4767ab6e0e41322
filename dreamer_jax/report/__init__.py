"""Reports of a run for people; `run/reporter.py` calls them.

    metrics_log.py  metrics.jsonl, written through full disks and read back
    progress.py     the terminal: a live bar, or plain lines
    curves.py       curves.png, a panel for each of `metrics.PLOTTED`
    video.py        GIFs of open-loop predictions and of episodes
    aggregates.py   statistics over the members of a sweep
    scores/         the score of a run, statistics over runs, published figures
    wandb/          Weights & Biases, as a program that reads the files above

Nothing here imports JAX: the W&B reader is a small process. Start with `metrics_log.py`.
"""
