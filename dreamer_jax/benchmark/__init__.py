"""How fast a config's updates and runs are: measured times, counted FLOPs, memory.

- `suite.py`: rows of results, one for each combination of what is compared. Start here.
- `update.py`: an update's program, its time and memory, and how many members fit.
- `parts.py`: the parts of an update, timed separately.
- `loop.py`: a training run, watched to see what the device does when.
- `flops.py`: FLOPs, counted in the trace of a function.
- `device.py`: the time of calls, memory, and what a device could do at best.

Benchmarks may import every room before the command line. docs/performance.md explains the results.
"""
