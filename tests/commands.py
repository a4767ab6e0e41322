"""The scripts of experiments/ as a user runs them: in processes, with what they print."""

import multiprocessing
import os
import runpy
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CATCH = "--config=configs/catch.py:debug"
PATIENCE = 300  # seconds that a command may take

# Its processes are forked from one that has these modules already, but not begun to compute.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [f"dreamer_jax.{name}" for name in ("cli", "run.trainer", "run.members", "benchmark.suite")]
)


def command(script, *arguments, cache):
    """Run an experiment script. Returns: exit status, standard output, standard error."""
    done = subprocess.run(
        [sys.executable, f"experiments/{script}.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return done.returncode, done.stdout, done.stderr


def forked_command(script, *arguments, cache):
    """The same, without the seconds that a new process spends on its imports."""
    out, err = cache / "stdout", cache / "stderr"
    process = FORKS.Process(target=_run_script, args=(script, arguments, cache, out, err))
    process.start()
    process.join(PATIENCE)
    process.kill()
    process.join()
    return process.exitcode, out.read_text(), err.read_text()


def _run_script(script, arguments, cache, out, err):
    for path, stream in ((out, 1), (err, 2)):
        with open(path, "w") as file:
            os.dup2(file.fileno(), stream)
    os.chdir(ROOT)
    os.environ["XDG_CACHE_HOME"] = str(cache)
    sys.argv = [f"experiments/{script}.py", *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")
