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
        coordinator: flags of all processes; None for a free port of this machine.
    """

    def __init__(self, workdir, count, devices, changes=(), **overrides):
        file = write_sweep(f"{workdir}.py", [], **{"seeds": 8, **dict(changes)})
        flags = [f"--config.{name}={value}" for name, value in overrides.items()]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            coordinator = f"127.0.0.1:{free.getsockname()[1]}"
        self.logs = [f"{workdir}.{number}.log" for number in range(count)]
        variables = compilation_variables() | {"XLA_FLAGS": DEVICES.format(devices)}
        del variables["JAX_NUM_CPU_DEVICES"]
        self.processes = []
        for number, log in enumerate(self.logs):
            joint = [f"--coordinator={coordinator}", f"--num_processes={count}"]
            joint = [*joint, f"--process_id={number}"] if count > 1 else []
            command = ["-m", "dreamer_jax", "train", f"--config={file}", f"--workdir={workdir}"]
            with open(log, "a") as output:
                self.processes.append(
                    subprocess.Popen(
                        [sys.executable, *command, *flags, *joint],
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

    def wait(self):
        """Wait for all processes; return their exit statuses."""
        return [process.wait(PATIENCE) for process in self.processes]

    def text(self, number=0):
        """Return what a process has printed."""
        with open(self.logs[number]) as file:
            return file.read()
