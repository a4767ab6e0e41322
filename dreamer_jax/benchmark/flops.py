"""Floating-point operations of a function, counted in its trace.

Only matrix multiplications and convolutions count: 2 m n k operations for [m, k] @ [k, n].
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core
from jax.interpreters.partial_eval import dce_jaxpr


def count_flops(fn: Callable, *args: Any) -> int:
    """Return the FLOPs that a function must compute, whatever a compiler makes of it.

    The body of a loop counts once per iteration; of branches, the most expensive one counts. In a
    convolution, products with padding do not count, nor products with the zeros between the entries
    of a dilated array, as in the gradients of strided convolutions.

    Args:
        fn: a function that JAX can trace; loops must have a fixed number of steps.
        args: its arguments, or their shapes.
    """
    jaxpr = jax.make_jaxpr(fn)(*args).jaxpr
    # A trace also has unused results, such as gradients of all inputs of a scan's body.
    needed, _ = dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))
    return _count(needed)


def _count(jaxpr: core.Jaxpr) -> int:
    total = 0
    for equation in jaxpr.eqns:
        name, params = equation.primitive.name, equation.params
        inner = [_count(sub) for value in params.values() for sub in _jaxprs(value)]
        if name == "dot_general":
            total += _dot_flops(equation)
        elif name == "conv_general_dilated":
            total += _conv_flops(equation)
        elif name == "cond":
            total += max(inner)
        elif name == "while" and any(inner):
            raise ValueError("a while loop multiplies matrices, and may do so any number of times")
        else:
            total += params["length"] * sum(inner) if name == "scan" else sum(inner)
    return total


def _jaxprs(value: Any) -> Iterator[core.Jaxpr]:
    """Yield the jaxprs in a parameter of an equation."""
    for entry in value if isinstance(value, (tuple, list)) else [value]:
        if isinstance(entry, core.ClosedJaxpr):
            yield entry.jaxpr
        elif isinstance(entry, core.Jaxpr):
            yield entry


def _dot_flops(equation: core.JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    left, out = equation.invars[0].aval, equation.outvars[0].aval
    return 2 * out.size * math.prod(left.shape[axis] for axis in contracted)


def _conv_flops(equation: core.JaxprEqn) -> int:
    params, (left, right) = equation.params, (v.aval for v in equation.invars)
    lhs_spec, rhs_spec, out_spec = params["dimension_numbers"]
    out = equation.outvars[0].aval
    pairs = 1
    for i, padding in enumerate(params["padding"]):
        starts = np.arange(out.shape[out_spec[2 + i]]) * params["window_strides"][i] - padding[0]
        taps = np.arange(right.shape[rhs_spec[2 + i]]) * params["rhs_dilation"][i]
        read, dilation = np.add.outer(starts, taps), params["lhs_dilation"][i]
        inside = (read >= 0) & (read <= (left.shape[lhs_spec[2 + i]] - 1) * dilation)
        pairs *= int((inside & (read % dilation == 0)).sum())
    # The kernel's input axis has the size of one group, and the output's batch axis that of one
    # batch group, so neither count of groups is needed.
    batch = out.shape[out_spec[0]]
    return 2 * batch * out.shape[out_spec[1]] * right.shape[rhs_spec[1]] * pairs
