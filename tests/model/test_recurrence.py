"""Gradients of the recurrence against those of a loop over time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mock_agents import equations, random_like
from test_rssm import LATENTS, B, Case, D, T, assert_close

from dreamer_jax.model import rssm as rssm_lib
from dreamer_jax.model.distributions import from_noise
from dreamer_jax.model.ops.recurrence import scan


@pytest.fixture(scope="module", params=sorted(LATENTS))
def case(request):
    return Case(LATENTS[request.param])


def observe_losses(case):
    """Return a loss of all results of `observe`, and the same loss of a loop over steps."""
    is_first = case.is_first.at[0, 2].set(True)

    def of(outputs):
        weighted = jax.tree.map(lambda x: (random_like(x, seed=x.size) * x).sum(), outputs)
        return sum(jax.tree.leaves(weighted))

    def scanned(params, start, embed, action):
        args = (embed, action, is_first, case.noise, start)
        return of(rssm_lib.observe(case.rssm, params, *args, sample=from_noise))

    def looped(params, start, embed, action):
        variables, state, steps = {"params": params}, start, []
        for t in range(T):
            projected = case.rssm.apply(variables, embed[:, t], method="project_embed")
            args = state, action[:, t], projected, is_first[:, t], case.noise[t]
            state, posterior = case.rssm.apply(
                variables, *args, sample=from_noise, method="obs_step"
            )
            prior = case.rssm.apply(variables, state.deter, method="prior")
            steps.append((state, posterior, prior))
        return of(jax.tree.map(lambda *leaves: jnp.stack(leaves, 1), *steps))

    return scanned, looped


def test_gradients_of_observe_are_those_of_a_loop(case):
    """The gradients agree even under `vmap` over two members, and all parameters get some."""
    args = case.params, case.start, case.embed, case.action
    members = jax.tree.map(lambda x: jnp.stack([x, 0.5 * x]), args)
    one, two = (
        jax.jit(jax.vmap(jax.grad(loss, (0, 1, 2, 3))))(*members) for loss in observe_losses(case)
    )
    assert_close(one, two)
    assert all(np.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(one))


def test_no_kernel_gradient_is_summed_over_the_scan(case):
    """No carry or output of the loops has the shape of a recurrent kernel."""
    scanned, _ = observe_losses(case)
    args = case.params, case.start, case.embed, case.action
    jaxpr = jax.make_jaxpr(jax.grad(scanned))(*args)
    loops = [eqn for eqn in equations(jaxpr.jaxpr) if eqn.primitive.name == "scan"]
    shapes = {var.aval.shape for eqn in loops for var in eqn.outvars}
    recurrent = ("img_in", "posterior_in", "posterior_out")
    kernels = {case.params[name]["kernel"].shape for name in recurrent}
    kernels.add(case.params["gru"]["dense"]["kernel"].shape)
    assert len(loops) >= 2 and (B, D) in shapes
    assert not kernels & shapes


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("unroll", "loops"), [(1, 1), (4, 1), (6, 0), (100, 0)])
def test_a_scan_in_iterations_of_any_length(unroll, loops, reverse):
    """Six steps one by one, in iterations of three, and without a loop."""

    def step(state, entry):
        state = 2 * state + entry["x"]
        return state, {"y": state, "z": state[0] > 3}

    def run(start, inputs):
        return scan(step, start, inputs, unroll=unroll, reverse=reverse)

    start, inputs = jnp.array([1.0, 0.5]), {"x": jnp.arange(12.0).reshape(6, 2)}
    expected = jax.lax.scan(step, start, inputs, reverse=reverse)
    jax.tree.map(np.testing.assert_array_equal, run(start, inputs), expected)
    assert str(jax.make_jaxpr(run)(start, inputs)).count("scan[") == loops
