"""Settings of the process."""

import subprocess
import sys

import pytest

CHILD = """
import resource
from dreamer_jax.runtime import keep_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    arrays = [bytearray(2**21) for _ in range(64)]
    del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if KEEP:
    keep_memory()
print(faults(), faults())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="an option of glibc")
@pytest.mark.parametrize("keep", [True, False])
def test_memory_that_was_freed_is_used_again(keep):
    child = CHILD.replace("KEEP", str(keep))
    output = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True)
    first, second = map(int, output.stdout.split())
    assert first > 10_000, output.stderr
    assert (second < first / 10) == keep
