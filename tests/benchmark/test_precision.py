"""Dtypes of a program compiled for a GPU: products in bfloat16, the rest in float32."""

import re

import pytest
from test_topology import needs, run

from dreamer_jax.benchmark.hlo import called, parse_program

TEXT = """
import json, sys
import jax
jax.config.update("jax_platforms", "cpu")
from dreamer_jax.agent.placement import place
from dreamer_jax.benchmark.topology import OPTIONS, absent_devices, find_target
from dreamer_jax.benchmark.update import compile_update
from dreamer_jax.configs import get_config
from dreamer_jax.run.setup import build
target, chips = find_target("h100")
config = get_config("atari", "pong,debug")
config.seeds, config.compute_dtype = 1, "bfloat16"
setup = build(config, None, place(1, config.batch, 1, absent_devices(target, chips)[:1]))
compiled, _ = compile_update(setup, OPTIONS[target.platform])
print(json.dumps(compiled.as_text()))
"""
PRODUCTS = ("dot", "convolution")
FUNCTIONS = {"exponential", "exponential-minus-one", "log", "log-plus-one", "rsqrt", "sqrt", "tanh"}
FUNCTIONS |= {"logistic", "divide", "power"}
# Operations that hand a parameter on as it is.
MOVES = {"bitcast", "copy", "transpose", "reshape", "slice", "pad", "concatenate"}


@pytest.fixture(scope="module")
def program():
    return parse_program(run(TEXT))


def op_name(instruction):
    found = re.search(r'op_name="([^"]*)"', instruction.attributes)
    return found[1] if found else ""


def dtype(text):
    return text.strip("(").split("[")[0]


def casts(computations, computation, name):
    """Return how often a value is cast to bfloat16, in a computation and its fusions."""
    count = 0
    for user in computation.values():
        if name not in user.operands:
            continue
        if user.opcode == "convert":
            count += dtype(user.type) == "bf16"
        elif user.opcode in MOVES:
            count += casts(computations, computation, user.name)
        elif user.opcode == "fusion":
            inside = computations[called(user.attributes, "calls")]
            parameters = {i.arguments: i.name for i in inside.values() if i.opcode == "parameter"}
            places = [str(i) for i, operand in enumerate(user.operands) if operand == name]
            count += sum(casts(computations, inside, parameters[place]) for place in places)
    return count


pytestmark = [pytest.mark.slow, needs("jax_cuda12_plugin", "plan-gpu")]


def test_products_are_bfloat16(program):
    """But for the sums of probabilities that are sampled from, and of gradients of biases."""
    kinds = []
    for computation in program[1].values():
        for instruction in computation.values():
            if instruction.opcode in PRODUCTS or "cublas" in instruction.attributes:
                types = [computation[name].type for name in instruction.operands[:2]]
                if {dtype(text) for text in types} == {"bf16"}:
                    kinds.append("bfloat16")
                else:
                    left, right = (re.search(r"\[([\d,]*)\]", text)[1].split(",") for text in types)
                    assert len(left) == 1 or right[-1] == right[-2], (types, op_name(instruction))
    assert len(kinds) > 100


def test_functions_are_float32(program):
    """Normalisation, softmax, logarithms, returns and optimizer, all but activations of layers."""
    names = set()
    for computation in program[1].values():
        for instruction in computation.values():
            if instruction.opcode in FUNCTIONS and "elu" not in op_name(instruction):
                assert dtype(instruction.type) == "f32", op_name(instruction)
                names.add(instruction.opcode)
    assert {"exponential", "log", "rsqrt", "sqrt", "divide"} <= names


def test_kernels_are_cast_before_the_loops(program):
    """Each once, or in each of two layouts; none is handed to a loop in float32."""
    entry, computations = program
    computation, kernels, biases = computations[entry], {}, {}
    for instruction in computation.values():
        name = op_name(instruction).replace("\\'", "'")
        if instruction.opcode == "parameter" and ".params[" in name:
            found = biases if name.endswith("['bias']") else kernels
            found[name] = casts(computations, computation, instruction.name)
            loops = [i.opcode for i in computation.values() if instruction.name in i.operands]
            assert "tuple" not in loops or found is biases, name
    dense = {name: c for name, c in kernels.items() if "['conv_" not in name and "kernel" in name}
    assert len(dense) > 10 and set(dense.values()) <= {1, 2}, dense
    assert not any(biases.values())
