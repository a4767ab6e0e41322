"""`python -m dreamer_jax.launch.child`: the command `dreamer-jax`, in a process of a launcher."""

import ctypes
import runpy
import signal
import sys

_PR_SET_PDEATHSIG = 1  # of prctl(2)


def main() -> None:
    """Run the command; on Linux, save and end when the thread that started this process ends."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    # SLURM sends it to all processes of a job; the one that must act on it is submitit's.
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    runpy.run_module("dreamer_jax", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
