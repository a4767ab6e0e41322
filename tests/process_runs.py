"""Runs whose members several processes train, as a user starts them."""

import os
import socket
import subprocess
import sys

from commands import PATIENCE, ROOT
from killing import compilation_variables
from sweep_files import write_sweep

DEVICES = "--xla_force_host_platform_device_count={}"


class Group:
    """The processes of a run in a work directory; killed after the `with` block.

    Args:
        count: number of processes.
        devices: virtual CPU devices of each.
        changes: of the config.
        own_flags: further flags of each process.
    """

    def __init__(self, workdir, count, devices, changes, own_flags=None):
        file = write_sweep(f"{workdir}.py", [], **{"seeds": 8, **changes})
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{free.getsockname()[1]}"
        self.logs = [f"{workdir}.{number}.log" for number in range(count)]
        variables = compilation_variables() | {"XLA_FLAGS": DEVICES.format(devices)}
        del variables["JAX_NUM_CPU_DEVICES"]
        self.processes = []
        for number, log in enumerate(self.logs):
            own = own_flags[number] if own_flags else []
            joint = [f"--coordinator={coordinator}", f"--num_processes={count}"]
            joint = [*joint, f"--process_id={number}"] if count > 1 else []
            command = ["-m", "dreamer_jax", "train", f"--config={file}", f"--workdir={workdir}"]
            with open(log, "a") as output:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, *command, *own, *joint],
                        cwd=ROOT,
                        env=os.environ | variables,
                        stdout=output,
                        stderr=subprocess.STDOUT,
                    )
                )

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for process in self.processes:
            process.kill()
            process.wait()

    def ended(self):
        """Return whether a process has ended."""
        return any(process.poll() is not None for process in self.processes)

    def wait(self):
        """Wait for all processes; return their exit statuses."""
        return [process.wait(PATIENCE) for process in self.processes]

    def text(self, number=0):
        """Return what a process has printed."""
        with open(self.logs[number]) as file:
            return file.read()
