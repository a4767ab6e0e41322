"""Scans over time whose kernel gradients are one matmul over all steps."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util

from dreamer_jax.types import Array, Params

# Flax collections of a step in `scan_steps`: the inputs of its matmuls, and zeros added to their
# results, whose gradients are the results' gradients.
INPUTS, PERTURBATIONS = "inputs", "perturbations"


def multiply(module: nn.Module, inputs: Array, kernel: Array, first_row: int = 0) -> Array:
    """Multiply inputs [..., I] by `I` rows of a module's parameter `kernel`, from `first_row`."""
    rows = kernel[first_row : first_row + inputs.shape[-1]].astype(inputs.dtype)
    if module.is_initializing():
        return inputs @ rows  # `init` must create parameters only
    name = f"from_{first_row}"
    module.sow(INPUTS, name, inputs, init_fn=lambda: None, reduce_fn=lambda _, new: new)
    if module.has_variable(PERTURBATIONS, name):
        rows = jax.lax.stop_gradient(rows)  # `scan_steps` computes this gradient after the scan
    return module.perturb(name, _product(inputs, rows), PERTURBATIONS)


@jax.custom_vjp
def _product(inputs: Array, kernel: Array) -> Array:
    return inputs @ kernel


def _save_product(inputs: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    # The kernel is transposed here, which hoists it out of a scan: XLA's CPU backend is slow at
    # multiplying a few rows by a transposed kernel.
    return inputs @ kernel, (inputs, jax.lax.optimization_barrier(kernel.T))


def _product_grads(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array]:
    inputs, transposed = saved
    return grad @ transposed, _kernel_grad(inputs, grad).astype(transposed.dtype)


_product.defvjp(_save_product, _product_grads)


def _kernel_grad(inputs: Array, grad: Array) -> Array:
    """Sum outer products over all rows: [..., I], [..., O] -> [I, O] float32."""
    flat = inputs.reshape(-1, inputs.shape[-1]), grad.reshape(-1, grad.shape[-1])
    return jnp.einsum("ni,no->io", *flat, preferred_element_type=jnp.float32)


def scan_steps(apply: Callable, params: Params, start: Any, inputs: Any) -> tuple[Any, Any]:
    """Run `lax.scan` over the steps of a module.

        state    start -> s0 -> s1 -> s2
        inputs          x0    x1    x2

    The gradient of `lax.scan` accumulates a kernel's gradient step by step, each time by a matmul
    over few rows that reads and writes the whole sum. Here the backward scan computes only the
    gradients of the results of `multiply`; each kernel's gradient is one matmul over all steps
    after it.

    Args:
        apply: `Module.apply` of a step: (variables, state, *its inputs) -> next state, outputs.
        params: parameters of the module.
        start: state before the first step.
        inputs: a tuple of the steps' inputs, [T, ...].

    Returns:
        The states and the outputs, [T, ...].
    """

    @jax.custom_vjp
    def run(params, start, inputs) -> tuple[Any, Any]:
        def step(state, entry):
            state, outputs = apply({"params": params}, state, *entry)
            return state, (state, outputs)

        return jax.lax.scan(step, start, inputs)[1]

    def run_perturbed(params, start, inputs, perturbations) -> tuple[Any, Any]:
        def step(state, entry):
            entry, perturbation = entry
            variables = {"params": params, PERTURBATIONS: perturbation}
            (state, outputs), sown = apply(variables, state, *entry, mutable=[INPUTS])
            return state, ((state, outputs), sown[INPUTS])

        return jax.lax.scan(step, start, (inputs, perturbations))[1]

    def save(params, start, inputs) -> tuple[Any, Any]:
        length = len(jax.tree.leaves(inputs)[0])
        first = jax.tree.map(lambda x: x[0], inputs)
        init = partial(apply, mutable=[PERTURBATIONS])
        shapes = jax.eval_shape(init, {"params": params}, start, *first)[1][PERTURBATIONS]
        zeros = jax.tree.map(lambda x: jnp.zeros((length, *x.shape), x.dtype), shapes)
        results, pull_back, multiplied = jax.vjp(
            run_perturbed, params, start, inputs, zeros, has_aux=True
        )
        return results, (pull_back, multiplied)

    def grads(saved: Any, grad_results: Any) -> tuple[Params, Any, Any]:
        pull_back, multiplied = saved
        grad_params, grad_start, grad_inputs, products = pull_back(grad_results)
        grad_params = traverse_util.flatten_dict(grad_params)
        products, multiplied = map(traverse_util.flatten_dict, (products, multiplied))
        for (*module, name), x in multiplied.items():
            row, kernel = int(name.removeprefix("from_")), (*module, "kernel")
            deferred = _kernel_grad(x, products[*module, name])
            rows = slice(row, row + len(deferred))
            grad_params[kernel] = grad_params[kernel].at[rows].add(deferred)
        return traverse_util.unflatten_dict(grad_params), grad_start, grad_inputs

    run.defvjp(save, grads)
    return run(params, start, inputs)
