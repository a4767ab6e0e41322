"""List or run the jobs that a config's `sweep(add, arg)` adds.

dreamer-jax sweep --config=atari55 --workdir=runs/atari55 --launcher=list
dreamer-jax sweep --config=catch_sweep --workdir=runs/sweep --launcher=local --at_once=2
dreamer-jax sweep --config=atari55 --workdir=runs/atari55 --launcher=slurm \\
  --slurm=partition=gpu,gpus_per_node=1,time=1440 --dry_run
dreamer-jax sweep --config=atari55 --workdir=runs/atari55 --launcher=ray --gpus_per_job=0.5

Started again, the same sweep skips finished jobs, resumes unfinished and failed ones, and runs new
ones. docs/sweeps.md describes the launchers.
"""

import argparse
import sys
from argparse import Namespace
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dreamer_jax.commands.flags import Command, Flags, whole_number, words
from dreamer_jax.errors import UsageError, lookup

if TYPE_CHECKING:
    from dreamer_jax.launch.jobs import Job
    from dreamer_jax.launch.state import State

# The launchers, with the flags that each has of its own.
LAUNCHERS = {
    "list": (),
    "local": ("at_once", "gpus", "require_finished"),
    "slurm": ("slurm", "dry_run"),
    "ray": ("address", "gpus_per_job", "cpus_per_job", "require_finished"),
}


def add_flags(flags: Flags) -> None:
    add = flags.add_argument
    flags.add_config()
    add("--workdir", required=True, help="directory of the sweep, with a directory for each job")
    add("--launcher", default="list", help="list (default), local, slurm or ray")
    add("--jobs", type=words, default=[], help="run only these, as 0,3 or by name; all by default")
    add("--at_once", type=whole_number(1), help="local: number of jobs at once; 1")
    add("--gpus", type=words, help="local: GPUs to divide among them, as 0,1; all jobs see all")
    add("--slurm", type=_options, help="slurm: options of sbatch, as partition=gpu,time=1440")
    text = "local, ray: exit with status 1 unless all of these jobs have finished"
    add("--require_finished", action="store_true", default=None, help=text)
    text = "slurm: print the script without submitting it"
    add("--dry_run", action="store_true", default=None, help=text)
    add("--address", help="ray: of the cluster, as 10.0.0.1:6379; a new one on this machine")
    text = "ray: GPUs of each job, a whole number or a fraction of one; 0"
    add("--gpus_per_job", type=_gpus, help=text)
    add("--cpus_per_job", type=whole_number(1), help="ray: cores of each job; 1")


def main(args: Namespace) -> None:
    """Make the jobs, and list or run them; exit with status 1 if one has failed.

    Jobs that were stopped, or that another process is running, have not.
    """
    import jax

    # The jobs compute, not their launcher, which must not occupy a GPU.
    jax.config.update("jax_platforms", "cpu")
    from dreamer_jax.launch.jobs import choose, make_jobs
    from dreamer_jax.launch.state import FAILED, FINISHED

    own = lookup(LAUNCHERS, args.launcher, "--launcher")
    for name in sorted({name for names in LAUNCHERS.values() for name in names} - {*own}):
        if getattr(args, name) is not None:
            owner = next(launcher for launcher, names in LAUNCHERS.items() if name in names)
            raise UsageError(f"--{name} is a flag of --launcher={owner}, not of {args.launcher}")
    every = make_jobs(args.config_name, args.config, args.overrides, args.workdir)
    jobs = choose(every, args.jobs)
    if args.launcher == "list":
        list_jobs(every, jobs)
        return
    if args.launcher == "slurm":
        from dreamer_jax.launch import slurm

        options, folder = args.slurm or {}, every[0].workdir.parent / "slurm"
        print(
            slurm.script(jobs, folder, options)
            if args.dry_run
            else slurm.submit(jobs, folder, options)
        )
        return
    if args.launcher == "local":
        from dreamer_jax.launch import local

        slots = local.make_slots(args.at_once or 1, args.gpus or [])
        broken = local.run_jobs(jobs, slots, report)
    else:
        from dreamer_jax.launch import ray

        broken = ray.run_jobs(
            jobs,
            report,
            address=args.address,
            gpus=args.gpus_per_job or 0,
            cpus=args.cpus_per_job or 1,
        )
    kinds = summarize(jobs, broken)
    if FAILED in kinds or (args.require_finished and kinds != {FINISHED}):
        sys.exit(1)


def list_jobs(every: "Sequence[Job]", chosen: "Sequence[Job]") -> None:
    """Print a shell script of all commands, with a comment on each job."""
    from dreamer_jax.config import sweep
    from dreamer_jax.launch.plan import Planner
    from dreamer_jax.launch.state import others, read_state
    from dreamer_jax.runtime import prepare

    prepare()
    planner, numbers = Planner(), {job.name: number for number, job in enumerate(every)}
    states = [read_state(job) for job in chosen]
    for job, state in zip(chosen, states, strict=True):
        steps, size = f"{job.config.steps:,} steps", ""
        if not job.error:
            steps = f"{len(sweep.members(job.config))} members, {steps}"
            size = f", {_describe_size(planner, job)}"
        print(f"# {numbers[job.name]} {job.name}: {describe(job, state)}; {steps}{size}")
        print(job.command)
    print(f"# {count(states)}")
    left = others(every[0].workdir.parent, every)
    if left:
        print(f"# no longer in the sweep: {', '.join(left)}")


def report(job: "Job", state: "State") -> None:
    """Print what happens to a job."""
    print(f"{job.name}: {describe(job, state)}", flush=True)


def describe(job: "Job", state: "State") -> str:
    """Return a state in words."""
    progress = f" at step {state.env_step:,} of {job.config.steps:,}" if state.env_step else ""
    detail = f" ({' '.join(state.detail.split())})" if state.detail else ""
    return f"{state.kind}{progress}{detail}"


def summarize(jobs: "Sequence[Job]", broken: "Mapping[str, State]") -> set[str]:
    """Print what has become of the jobs; return the kinds of their states.

    Args:
        jobs: the jobs.
        broken: the state of those whose directories do not show it, by name.
    """
    from dreamer_jax.launch.state import FAILED, read_state

    states = [broken.get(job.name) or read_state(job) for job in jobs]
    print(count(states))
    failed = [(j, s) for j, s in zip(jobs, states, strict=True) if s.kind == FAILED]
    for job, state in failed:
        print(f"failed: {job.name} ({job.output}):\n  {state.detail}")
    return {state.kind for state in states}


def count(states: "Sequence[State]") -> str:
    """Return the number of jobs in each state."""
    kinds = Counter(state.kind for state in states)
    return f"{len(states)} jobs: " + ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())


def _describe_size(planner: Any, job: "Job") -> str:
    from dreamer_jax.run.setup import describe_bytes

    try:
        size = planner.size(job.config)
    except Exception as error:  # of an environment, say, whose package only the nodes have
        return f"size unknown ({type(error).__name__}: {' '.join(str(error).split())})"
    where = "in memory" if job.config.replay.storage == "memory" else "on disk"
    state, replay = describe_bytes(size.state), describe_bytes(size.replay)
    return f"{state} on the device without temporaries, replay {replay} {where}"


def _options(text: str) -> Mapping[str, str]:
    """Parse options such as 'partition=gpu,time=1440'."""
    pairs = [entry.partition("=") for entry in words(text)]
    if not all(name and equals for name, equals, _ in pairs):
        raise argparse.ArgumentTypeError(f"{text!r} was given; allowed: name=value,name=value")
    return {name.replace("-", "_"): value for name, _, value in pairs}


def _gpus(text: str) -> float:
    """Parse a number of GPUs: whole, or a fraction of one."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not (0 <= number < 1 or number >= 1 and number.is_integer()):
        raise argparse.ArgumentTypeError(
            f"{text!r} was given; allowed: a whole number, or a fraction of one such as 0.5"
        )
    return number


COMMAND = Command(__doc__, add_flags, main)
