"""Commands as a user runs them: in processes of their own, with their output."""

import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
CATCH = "--config=configs/catch.py:debug"
PATIENCE = 300  # seconds that a command may take

# Commands are forked from a process that has imported these modules, but computed nothing.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [f"dreamer_jax.{name}" for name in ("run.trainer", "run.members", "benchmark.suite")]
)


def command(name, *arguments, cache):
    """Run a script of experiments/, and return its exit status, output and errors."""
    done = subprocess.run(
        [sys.executable, f"experiments/{name}.py", *arguments],
        cwd=ROOT,
        env=os.environ | {"XDG_CACHE_HOME": str(cache)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    return done.returncode, done.stdout, done.stderr


def forked_command(name, *arguments, cache):
    """Run `dreamer-jax`, and return the same as `command`, without waiting for imports."""
    out, err = cache / "stdout", cache / "stderr"
    process = FORKS.Process(target=_run, args=((name, *arguments), cache, out, err))
    process.start()
    process.join(PATIENCE)
    process.kill()
    process.join()
    return process.exitcode, out.read_text(), err.read_text()


def _run(arguments, cache, out, err):
    from dreamer_jax.commands.main import main

    for path, stream in ((out, 1), (err, 2)):
        with open(path, "w") as file:
            os.dup2(file.fileno(), stream)
    os.chdir(ROOT)
    os.environ["XDG_CACHE_HOME"] = str(cache)
    main(arguments)
