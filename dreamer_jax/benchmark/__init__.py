"""Benchmarks of a config's updates and runs: measured times, counted FLOPs, memory.

suite     rows of results, one for each combination of what is compared
update    the program of an update: its time and memory, and how many members fit
parts     the parts of an update, timed separately
loop      a training run, recorded to see when the device computes
flops     FLOPs, counted in the trace of a function
device    the time of calls, the memory, and the peak rate of a device

Benchmarks may import every room before the commands. docs/performance.md explains the results.
Start with suite.
"""
