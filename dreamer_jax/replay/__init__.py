"""Replay of environment steps, kept on disk, from which every member draws training sequences.

replay.py    `Replay`: adds steps, draws and gathers sequences, and restores checkpoints; start here
samplers.py  where sequences may start, and the draws
ring.py      the records of one member, in files or in memory, and whether they are intact
layout.py    sizes, shapes and dtypes of a ring
prefetch.py  `Prefetcher`: copies the next batch to the device while an update runs
device.py    the same replay as arrays on a device, for `config.loop = "device"`
copy.py      copies members' rings from one work directory to another

May import from types, errors, files and seeding. Only prefetch.py and device.py need JAX.
"""
