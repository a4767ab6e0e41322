"""Sweeps: the jobs that a config file adds, and what runs them.

    jobs      the jobs of a sweep: name, config, work directory, command; start here
    state     what has become of a job, read from its work directory
    plan      the size of a job, without running it
    process   one job in a process: the same plain command for every launcher
    local     jobs on this machine, in turn or several at once
    slurm     a SLURM job array, by submitit
    ray       tasks on a Ray cluster

Scheduling, placement and retries are those of SLURM and Ray. All that is known of a job is in its
work directory, so launchers need not know of each other.
"""
