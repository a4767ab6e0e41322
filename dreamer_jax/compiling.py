"""How XLA is told to compile an update."""

import functools

import jax

# XLA's CPU backend hands multiplications of matrices to YNNPACK, unless no kind of fusion with it
# is allowed, and then to Eigen. That is faster at those of an update on all cores, and slower where
# every core is a device of its own (docs/performance.md).
EIGEN = {"xla_cpu_experimental_ynn_fusion_type": ""}


def compiler_options(devices: int) -> dict[str, str]:
    """For `jax.jit` on so many of the default backend's devices.

    None that this version of XLA does not know.
    """
    return _known() if devices == 1 and jax.default_backend() == "cpu" else {}


@functools.cache
def _known() -> dict[str, str]:
    try:
        jax.jit(lambda: 0, compiler_options=EIGEN).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return EIGEN
