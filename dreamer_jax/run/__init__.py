"""The training run: the loop, and everything that reads or writes a work directory.

    trainer      the loop: step environments, update members, log, evaluate, save; start here
    setup        the parts that follow from a config alone: agent, environments, replay
    identity     which environment a run is of, compared whenever the run is opened
    schedule     the steps at which updates, logs, evaluations and checkpoints are due
    driver       the environment side of the loop
    device_loop  the program of a run whose environments are JAX programs (`config.loop`)
    device_trainer  the trainer that calls it
    memory       whether the arrays of such a run fit
    evaluation   greedy episodes, and `evaluate` for a saved run
    reporter     output for people: metrics.jsonl, terminal, curves, faults.log, W&B
    checkpoint   saving and restoring, exact and safe against kills at any time
    from_reference  runs that begin with weights of the original implementation
    load         agents from checkpoints, for use in other code
    members      list, extract, join and add members of saved runs
    workdir      paths, and the lock of a work directory
    scratch      a replay on a local disk, and what to do where it is lost
    programs     compiled programs that are kept with a run
    processes    several processes that train one run
    signals      an orderly stop on SIGTERM, Ctrl-C and the like

It may import from every room except benchmark, launch and commands, the only ones that import from
it.
"""
