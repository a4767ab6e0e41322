"""What a choice of the code is worth: a part of an update with it and without, taking turns.

Where others use the machine too, its speed changes within seconds, so that only what runs in turns
can be compared.
"""

import functools
import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, NamedTuple
from unittest import mock

import jax
import jax.numpy as jnp

from dreamer_jax import agent as agent_lib
from dreamer_jax.agent import Agent
from dreamer_jax.benchmark.batches import make_batch
from dreamer_jax.benchmark.flops import update_flops
from dreamer_jax.benchmark.parts import PartFn, make_inputs, part_functions
from dreamer_jax.benchmark.timing import program_bytes, seconds
from dreamer_jax.compiling import compiler_options
from dreamer_jax.members import over_members
from dreamer_jax.model import matmul_convolutions, networks, recurrence, winograd
from dreamer_jax.model import rssm as rssm_lib
from dreamer_jax.model.convolutions import Conv
from dreamer_jax.model.distributions import OneHot
from dreamer_jax.names import lookup
from dreamer_jax.run import Parts


class Choice(NamedTuple):
    """Something that the code does, and what it could do instead.

    While `instead` is entered, and with what `change` makes of the agent, the part is traced in the
    other way.
    """

    chosen: str
    other: str
    part: str  # of `part_functions`, or 'update' for all of it
    instead: Callable[[], AbstractContextManager] = nullcontext
    change: Callable[[Agent], Agent] = lambda agent: agent
    map_members: Callable[[Callable], Callable] = over_members
    options: Callable[[], dict[str, str]] = compiler_options


def _scan_with(change: Callable) -> Callable[[], AbstractContextManager]:
    """`lax.scan` over steps is what `change` makes of it and its arguments (step, start, entries).

    Scans with options, as those of returns, stay as they are.
    """
    scan = jax.lax.scan

    def other(*args, **options):
        return scan(*args, **options) if options else change(scan, *args)

    return lambda: mock.patch.object(jax.lax, "scan", other)


def _draw_inside(scan: Callable, step: Callable, start: Any, noise: Any) -> Any:
    leaves, tree = jax.tree.flatten(noise)
    keys = jax.random.split(jax.random.key(0), (len(leaves[0]), len(leaves)))

    def drawing(state, keys):
        entry = [jax.random.uniform(k, x.shape[1:]) for k, x in zip(keys, leaves, strict=True)]
        return step(state, tree.unflatten(entry))

    return scan(drawing, start, keys)


def _observe_inside(rssm, params, embed, action, is_first, noise, start, *, sample):
    """`rssm.observe` with the embedding's share and the prior in the scan."""

    def step(state, entry):
        action, embed, is_first, noise = entry
        project = functools.partial(rssm.apply, {"params": params})
        args = action, project(embed, method="project_embed"), is_first, noise
        state, posterior = rssm_lib.obs_step(rssm, params, state, *args, sample=sample)
        return state, (state, posterior, project(state.deter, method="prior"))

    entries = jax.tree.map(lambda x: x.swapaxes(0, 1), (action, embed, is_first))
    _, results = jax.lax.scan(step, start, (*entries, noise))
    return jax.tree.map(lambda x: x.swapaxes(0, 1), results)


def _multiply_apart(layer, *inputs):
    return layer.add_bias(sum(layer.part(i, x) for i, x in enumerate(inputs)))


def _sample_by_cumsum(dist, noise):
    index = jnp.sum(noise[..., None] >= jnp.cumsum(dist.probs, -1)[..., :-1], -1)
    return dist._straight_through(index)


def _finish_outside(features, kernel_size, stride, layer, act, dtype, *, name):
    """`Conv` with bias and activation on all images at once."""

    def apart(images, kernel, stride, bias, act):
        out = layer(images, kernel, stride)
        return act(out + jnp.broadcast_to(bias, out.shape))

    return Conv(features, kernel_size, stride, apart, act, dtype, name=name)


@contextmanager
def _all_images_at_once() -> Iterator[None]:
    with ExitStack() as stack:
        for module in (matmul_convolutions, winograd):
            stack.enter_context(mock.patch.object(module, "CPU_SLICE", 2**50))
        yield


def _through_imagination(agent: Agent) -> Agent:
    task = agent.behaviors[0]
    actor_grad = task.ac.actor_grad._replace(through_dynamics=True)
    task = replace(task, ac=replace(task.ac, actor_grad=actor_grad))
    return replace(agent, behaviors=(task, *agent.behaviors[1:]))


def _patch(*args: Any) -> Callable[[], AbstractContextManager]:
    return lambda: mock.patch.object(*args)


CHOICES = {
    "heads": Choice(
        "embedding and prior outside of the scan", "inside", "observe",
        _patch(rssm_lib, "observe", _observe_inside),
    ),
    "kernel_grads": Choice(
        "gradient of recurrent kernels over all steps at once", "summed step by step", "observe",
        _patch(rssm_lib, "scan_steps", recurrence.scan_plainly),
    ),
    "transposed": Choice(
        "recurrent kernels transposed before the scan", "in every step", "observe",
        _patch(recurrence, "_product", jnp.matmul),
    ),
    "gru": Choice(
        "one multiplication for all inputs of a layer", "one for each", "observe",
        _patch(rssm_lib.ConcatDense, "__call__", _multiply_apart),
    ),
    "unroll_observe": Choice(
        "scans not unrolled", "by 5", "observe",
        _scan_with(lambda scan, *args: scan(*args, unroll=5)),
    ),
    "unroll_imagine": Choice(
        "scans not unrolled", "by 5", "imagination",
        _scan_with(lambda scan, *args: scan(*args, unroll=5)),
    ),
    "remat": Choice(
        "values of steps kept for gradients", "computed again", "observe",
        _scan_with(lambda scan, step, *args: scan(jax.checkpoint(step), *args)),
    ),
    "noise": Choice(
        "noise drawn before the scan", "inside", "imagination", _scan_with(_draw_inside)
    ),
    "sample": Choice(
        "cumulative probabilities by a multiplication", "by cumsum", "imagination",
        _patch(OneHot, "sample_from", _sample_by_cumsum),
    ),
    "slices_encoder": Choice(
        "convolutions in slices of the images", "all at once", "encoder", _all_images_at_once
    ),
    "slices_decoder": Choice(
        "convolutions in slices of the images", "all at once", "decoder", _all_images_at_once
    ),
    "layers_encoder": Choice(
        "bias and activation in the slices", "after them", "encoder",
        _patch(networks, "Conv", _finish_outside),
    ),
    "layers_decoder": Choice(
        "bias and activation in the slices", "after them", "decoder",
        _patch(networks, "Conv", _finish_outside),
    ),
    "reinforce": Choice(
        "imagination outside of the gradient", "inside", "update", change=_through_imagination
    ),
    "one_member": Choice(
        "one member is no batch of one", "vmap over it", "update", map_members=jax.vmap
    ),
    "eigen": Choice("Eigen multiplies", "YNNPACK", "update", options=dict),
}  # fmt: skip


def part_function(agent: Agent, part: str) -> PartFn:
    """A part of one member's update, or all of it, as a function of its inputs."""
    if part == "update":
        return lambda x: agent_lib.train_step(agent, x.state, x.batch)
    return part_functions(agent)[part]


def trace(parts: Parts, choice: Choice, inputs: Any) -> jax.stages.Lowered:
    """The choice's part without it, lowered for the inputs of all members."""
    fn = choice.map_members(part_function(choice.change(parts.agent), choice.part))
    jax.clear_caches()  # parts of another tracing may be in them
    with choice.instead():
        return jax.jit(fn, compiler_options=choice.options()).lower(inputs)


def measure_choices(parts: Parts, names: list[str], *, repeats: int) -> Iterator[dict[str, Any]]:
    """Time each choice against its alternative, on synthetic batches.

    Yields:
        Per choice what it is, its `part`, the median milliseconds of it (`ms`) and of the other
        (`other_ms`), the median, least and largest `ratio` of pairs, other by chosen, and what
        memory the programs need, as XLA plans it (`bytes`, `other_bytes`).

    Raises:
        UsageError: a name that is not in `CHOICES`, or an agent of other parts than DreamerV2's.
    """
    choices = [lookup(CHOICES, name, "choice") for name in names]
    update_flops(parts.agent, batch=1, length=1)  # refuses agents whose parts are others
    make = jax.jit(over_members(lambda state, batch: make_inputs(parts.agent, state, batch)))
    inputs = make(parts.init_state(), make_batch(parts, synthetic=True))
    for name, choice in zip(names, choices, strict=True):
        as_is = Choice(choice.chosen, "", choice.part)
        programs = [trace(parts, c, inputs).compile() for c in (as_is, choice)]
        calls = [functools.partial(program, inputs) for program in programs]
        for call in calls:
            seconds(call)  # the first call may allocate
        pairs = [[seconds(call) for call in calls] for _ in range(repeats)]
        chosen, other = (statistics.median(times) for times in zip(*pairs, strict=True))
        ratios = [b / a for a, b in pairs]
        yield {
            "choice": name,
            "chosen": choice.chosen,
            "other": choice.other,
            "part": choice.part,
            "ms": 1e3 * chosen,
            "other_ms": 1e3 * other,
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
            "bytes": program_bytes(programs[0]),
            "other_bytes": program_bytes(programs[1]),
        }
