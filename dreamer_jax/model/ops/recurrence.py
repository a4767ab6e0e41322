"""Recurrent networks over time, with the gradient of their kernels from all steps at once."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from dreamer_jax.types import Array, Params

# Flax collections of a step in `scan_steps`: what kernels multiply, and zeros that are added to
# their products, whose gradients are those of the products.
INPUTS, NUDGES = "inputs", "perturbations"


def multiply(module: nn.Module, inputs: Array, kernel: Array, row: int = 0) -> Array:
    """inputs [..., I] @ the `I` rows of a module's parameter `kernel` from `row` on."""
    rows = kernel[row : row + inputs.shape[-1]].astype(inputs.dtype)
    if module.is_initializing():
        return inputs @ rows  # nothing but parameters is initialised
    name = f"from_{row}"
    module.sow(INPUTS, name, inputs, init_fn=lambda: None, reduce_fn=lambda _, new: new)
    if module.has_variable(NUDGES, name):
        rows = jax.lax.stop_gradient(rows)  # `scan_steps` finds its gradient
    return module.perturb(name, _product(inputs, rows), NUDGES)


@jax.custom_vjp
def _product(inputs: Array, kernel: Array) -> Array:
    return inputs @ kernel


def _save_product(inputs: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    # Transposed here, which is once before a scan: XLA's CPU backend is slow at a few rows times a
    # transposed kernel.
    return inputs @ kernel, (inputs, jax.lax.optimization_barrier(kernel.T))


def _product_grads(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    inputs, transposed = saved
    return grad @ transposed, _kernel_grad(inputs, grad).astype(transposed.dtype)


_product.defvjp(_save_product, _product_grads)


def _kernel_grad(inputs: Array, grad: Array) -> Array:
    """[..., I], [..., O] -> [I, O] float32."""
    flat = inputs.reshape(-1, inputs.shape[-1]), grad.reshape(-1, grad.shape[-1])
    return jnp.einsum("ni,no->io", *flat, preferred_element_type=jnp.float32)


def scan_plainly(apply: Callable, params: Params, start: Any, inputs: Any) -> tuple[Any, Any]:
    """`scan_steps` with the gradient that JAX makes of a scan."""

    def step(state, entry):
        state, outputs = apply({"params": params}, state, *entry)
        return state, (state, outputs)

    return jax.lax.scan(step, start, inputs)[1]


def scan_steps(apply: Callable, params: Params, start: Any, inputs: Any) -> tuple[Any, Any]:
    """`lax.scan` over the steps of a module.

        state    start -> s0 -> s1 -> s2
        inputs          x0    x1    x2

    Differentiated, `lax.scan` sums a kernel's gradient step by step: each time a multiplication
    over the few rows of one step, and all of the sum read and written. Here the scan backwards
    only finds the gradients of all products of `multiply`, and those of their kernels are one
    multiplication each, over all steps.

    Args:
        apply: `Module.apply` of a step, (state, *inputs of it) -> next state, outputs.
        start: [...]; inputs: a tuple, [T, ...].

    Returns:
        states [T, ...] and outputs [T, ...].
    """

    def run_nudged(params: Params, start: Any, inputs: Any, nudges: Any) -> tuple[Any, Any]:
        def step(state, entry):
            entry, nudge = entry
            variables = {"params": params, NUDGES: nudge}
            (state, outputs), sown = apply(variables, state, *entry, mutable=[INPUTS])
            return state, ((state, outputs), sown[INPUTS])

        return jax.lax.scan(step, start, (inputs, nudges))[1]

    def save(params: Params, start: Any, inputs: Any) -> tuple[Any, Any]:
        length = len(jax.tree.leaves(inputs)[0])
        first = jax.tree.map(lambda x: x[0], inputs)
        _, shapes = jax.eval_shape(
            partial(apply, mutable=[NUDGES]), {"params": params}, start, *first
        )
        nudges = jax.tree.map(lambda x: jnp.zeros((length, *x.shape), x.dtype), shapes[NUDGES])
        results, pull_back, multiplied = jax.vjp(
            run_nudged, params, start, inputs, nudges, has_aux=True
        )
        return results, (pull_back, multiplied)

    def grads(saved: Any, grad_results: Any) -> tuple[Params, Any, Any]:
        pull_back, multiplied = saved
        grad_params, grad_start, grad_inputs, products = pull_back(grad_results)
        grad_params = traverse_util.flatten_dict(grad_params)
        products, multiplied = map(traverse_util.flatten_dict, (products, multiplied))
        for (*module, name), x in multiplied.items():
            row, kernel = int(name.removeprefix("from_")), (*module, "kernel")
            late = _kernel_grad(x, products[*module, name])
            grad_params[kernel] = grad_params[kernel].at[row : row + len(late)].add(late)
        return traverse_util.unflatten_dict(grad_params), grad_start, grad_inputs

    scan = jax.custom_vjp(partial(scan_plainly, apply))
    scan.defvjp(save, grads)
    return scan(params, start, inputs)
