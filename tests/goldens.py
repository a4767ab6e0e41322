"""The golden files of the original TensorFlow implementation, and how closely ours must agree.

They are not part of the project: DREAMER_JAX_PARITY names their folder, and the tests that need
them are skipped where it is absent.
"""

import json
import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

FOLDER = Path(
    os.environ.get(
        "DREAMER_JAX_PARITY",
        Path(__file__).parents[2] / "shared" / "reference" / "parity",
    )
)
needs_goldens = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no golden files in {FOLDER}")

FORWARD = 1e-5  # of the array's largest entry
GRADIENT = 1e-4  # of the array's largest entry
WEIGHTS = 5e-6  # absolute, after whole training steps


def close(ours, theirs, tolerance=FORWARD):
    theirs = np.asarray(theirs)
    assert jnp.shape(ours) == theirs.shape
    atol = tolerance * max(np.abs(theirs).max(), 1e-30)
    np.testing.assert_allclose(np.asarray(ours), theirs, rtol=0, atol=atol)


def load(name):
    with np.load(FOLDER / f"{name}.npz") as file:
        arrays = dict(file)
    return arrays, json.loads((FOLDER / f"{name}.json").read_text())
