"""Floating-point operations of a function, counted in its trace.

Only multiplications of matrices count, convolutions among them: 2 m n k operations for
[m, k] @ [k, n].
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.extend import core
from jax.interpreters.partial_eval import dce_jaxpr


def count_flops(fn: Callable, *args: Any) -> int:
    """Return the FLOPs of `fn`.

    A loop counts as often as it runs, and of branches the longest. In a convolution only products
    of two entries count: not those with padding, nor with the zeros between the entries of a
    dilated array, which the gradients of strided convolutions have. So what counts is what must be
    computed, whatever a compiler makes of it.

    Args:
        fn: a function that JAX can trace; loops must have a fixed number of steps.
        args: its arguments, or their shapes.
    """
    jaxpr = jax.make_jaxpr(fn)(*args).jaxpr
    # A trace also holds unused results, such as gradients of all inputs of a scan's body.
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
        places = np.arange(out.shape[out_spec[2 + i]]) * params["window_strides"][i] - padding[0]
        taps = np.arange(right.shape[rhs_spec[2 + i]]) * params["rhs_dilation"][i]
        read, dilation = np.add.outer(places, taps), params["lhs_dilation"][i]
        inside = (read >= 0) & (read <= (left.shape[lhs_spec[2 + i]] - 1) * dilation)
        pairs *= int((inside & (read % dilation == 0)).sum())
    # The kernel's input axis has the size of one group, and so has a group of batches an output.
    batch = out.shape[out_spec[0]]
    return 2 * batch * out.shape[out_spec[1]] * right.shape[rhs_spec[1]] * pairs
