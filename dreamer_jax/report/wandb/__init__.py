"""Weights & Biases as a reader of a run's files, in a process of its own.

The trainer only starts and ends the reader, so no failure of W&B reaches it, and the reader imports
neither JAX nor the rest of the run.

    process.py   the trainer's side: start the reader, pass on its warnings, end it
    __main__.py  the reader's program; run by hand it sends what W&B lacks of a run
    session.py   the W&B runs of one reader: open them, send to them, finish them
    outbox.py    the rows that have not been sent, and the record of those that have
"""
