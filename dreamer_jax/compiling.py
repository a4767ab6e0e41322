"""How XLA is told to compile an update."""

import functools

import jax

# XLA's CPU backend hands multiplications of matrices to YNNPACK, unless no kind of fusion with it
# is allowed, and then to Eigen, which is faster at those of an update (docs/performance.md).
EIGEN = {"xla_cpu_experimental_ynn_fusion_type": ""}


def compiler_options() -> dict[str, str]:
    """For `jax.jit` on the default backend: none that this version of XLA does not know."""
    return _known() if jax.default_backend() == "cpu" else {}


@functools.cache
def _known() -> dict[str, str]:
    try:
        jax.jit(lambda: 0, compiler_options=EIGEN).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return EIGEN
