"""Scans over time whose loops compute only what is recurrent."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from dreamer_jax.types import Array, Params

CONSTANTS = "constants"  # a Flax collection: values that all steps of a scan share


def constant(module: nn.Module, name: str, make: Callable[[], Array]) -> Array:
    """Return a function of parameters, which `scan_steps` calls once instead of in every step."""
    if module.has_variable(CONSTANTS, name):
        return module.get_variable(CONSTANTS, name)
    value = make()
    if not module.is_initializing():  # `init` must create parameters only
        module.sow(CONSTANTS, name, value, init_fn=lambda: None, reduce_fn=lambda _, new: new)
    return value


def multiply(module: nn.Module, inputs: Array, kernel: Array, first_row: int = 0) -> Array:
    """Multiply inputs [..., I] by `I` rows of a module's parameter `kernel`, from `first_row`."""
    rows = kernel[first_row : first_row + inputs.shape[-1]]
    cast = constant(module, f"rows_{first_row}", lambda: rows.astype(inputs.dtype))
    # XLA's CPU backend is slow at multiplying a few rows by a transposed kernel.
    transposed = constant(
        module, f"transposed_{first_row}", lambda: jax.lax.optimization_barrier(cast.T)
    )
    return _product(inputs, rows, cast, transposed)


@jax.custom_vjp
def _product(inputs: Array, kernel: Array, cast: Array, transposed: Array) -> Array:
    """Multiply by the cast kernel; the gradient of the kernel itself is accumulated in float32."""
    return inputs @ cast


def _save_product(inputs, kernel, cast, transposed) -> tuple[Array, tuple[Array, Array]]:
    return inputs @ cast, (inputs, transposed)


def _product_grads(saved: tuple[Array, Array], grad: Array) -> tuple[Array, Array, None, None]:
    inputs, transposed = saved
    flat = inputs.reshape(-1, inputs.shape[-1]), grad.reshape(-1, grad.shape[-1])
    grad_kernel = jnp.einsum("ni,no->io", *flat, preferred_element_type=jnp.float32)
    return grad @ transposed, grad_kernel, None, None


_product.defvjp(_save_product, _product_grads)


def cast_dense(params: Params, dtype: jnp.dtype) -> Params:
    """Cast the kernels of frozen dense layers once, before a scan casts them in every step."""
    if not isinstance(params, dict):
        return params
    if "kernel" in params:
        return {**params, "kernel": params["kernel"].astype(dtype)}
    return {name: cast_dense(part, dtype) for name, part in params.items()}


def scan(
    step: Callable, start: Any, inputs: Any, *, unroll: int, reverse: bool = False
) -> tuple[Any, Any]:
    """Run `lax.scan` with as many steps in an iteration as divide all of them, up to `unroll`."""
    steps = len(jax.tree.leaves(inputs)[0])
    unroll = next(n for n in range(min(unroll, steps), 0, -1) if steps % n == 0)
    if unroll < steps:
        return jax.lax.scan(step, start, inputs, unroll=unroll, reverse=reverse)
    # A loop of one iteration would have its steps counted, on a GPU by a kernel each.
    state, outputs = start, [None] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        state, outputs[t] = step(state, jax.tree.map(lambda x, t=t: x[t], inputs))
    return state, jax.tree.map(lambda *each: jnp.stack(each), *outputs)


def scan_steps(
    apply: Callable, params: Params, start: Any, inputs: Any, *, unroll: int = 1
) -> tuple[Any, Any]:
    """Run `lax.scan` over the steps of a module.

        state    start -> s0 -> s1 -> s2
        inputs          x0    x1    x2

    The gradient of `lax.scan` saves the intermediate values of each step in the loop, and
    accumulates the gradient of each parameter step by step. Here only the states are saved. The
    backward pass computes all steps again at once, which are no longer recurrent; then the
    gradients of the states in a loop; and from these the gradients of parameters and inputs, for
    all steps at once.

    Args:
        apply: `Module.apply` of a step: (variables, state, *its inputs) -> next state, outputs. It
            must treat leading axes alike, because it is also applied to all steps at once.
        params: parameters of the module.
        start: state before the first step.
        inputs: a tuple of the steps' inputs, [T, ...].
        unroll: most steps in one iteration of the loops.

    Returns:
        The states and the outputs, [T, ...].
    """

    def make_constants(params, start, inputs):
        first = jax.tree.map(lambda x: x[0], inputs)
        return apply({"params": params}, start, *first, mutable=[CONSTANTS])[1]

    @jax.custom_vjp
    def run(params, start, inputs) -> tuple[Any, Any]:
        variables = {"params": params, **make_constants(params, start, inputs)}

        def step(state, entry):
            state, outputs = apply(variables, state, *entry)
            return state, (state, outputs)

        return scan(step, start, inputs, unroll=unroll)[1]

    def save(params, start, inputs) -> tuple[Any, Any]:
        states, outputs = run(params, start, inputs)
        before = jax.tree.map(lambda s, rest: jnp.concatenate([s[None], rest[:-1]]), start, states)
        return (states, outputs), (params, before, inputs)

    def grads(saved: Any, grad_results: Any) -> tuple[Params, Any, Any]:
        params, before, inputs = saved
        start = jax.tree.map(lambda x: x[0], before)
        constants = make_constants(params, start, inputs)
        split = _Split(jax.tree.leaves(constants))

        def pull_back_of_step(state, entry):
            variables = {"params": params, **constants}
            return split(jax.vjp(lambda state: apply(variables, state, *entry), state)[1])

        def step(grad_state, entry):
            saved, (grad_result, grad_outputs) = entry
            grad_state = jax.tree.map(jnp.add, grad_state, grad_result)
            (grad_before,) = split.join(saved)((grad_state, grad_outputs))
            return grad_before, grad_state

        steps = jax.vmap(pull_back_of_step)(before, inputs), grad_results
        none = jax.tree.map(jnp.zeros_like, start)
        grad_start, grad_states = scan(step, none, steps, reverse=True, unroll=unroll)

        def all_steps(params, inputs):
            return apply({"params": params}, before, *inputs)

        _, pull_back = jax.vjp(all_steps, params, inputs)
        grad_params, grad_inputs = pull_back((grad_states, grad_results[1]))
        return grad_params, grad_start, grad_inputs

    run.defvjp(save, grads)
    return run(params, start, inputs)


class _Split:
    """Splits a tree into leaves that `vmap` may stack, and constants that all steps share."""

    def __init__(self, constants: list[Array]):
        self._constants = constants

    def __call__(self, tree: Any) -> list[Array]:
        """Return the leaves that are no constants, and remember the rest of the tree."""
        leaves, self._structure = jax.tree.flatten(tree)
        self._shared = [next((c for c in self._constants if c is x), None) for x in leaves]
        return [x for x, c in zip(leaves, self._shared, strict=True) if c is None]

    def join(self, leaves: list[Array]) -> Any:
        """Return the tree with other leaves in place of those that the last call returned."""
        rest = iter(leaves)
        return self._structure.unflatten(next(rest) if c is None else c for c in self._shared)
