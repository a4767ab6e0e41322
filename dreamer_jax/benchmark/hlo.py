"""Counts of what a compiled program does, from its text (optimized HLO), loops multiplied out.

XLA's own `cost_analysis` is empty on GPUs, and counts the body of a loop once elsewhere.
"""

import functools
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

BYTES = {"pred": 1, "bf16": 2, "f16": 2, "f32": 4, "f64": 8, "token": 0}
# Opcodes that move no data and start no kernel.
FREE = frozenset(
    "parameter constant tuple get-tuple-element bitcast after-all while conditional call "
    "opt-barrier partition-id replica-id".split()
)
COLLECTIVE = re.compile(
    r"(all-reduce|all-gather|all-to-all|reduce-scatter|collective-permute|collective-broadcast)"
)


@dataclass
class Counts:
    """Totals of one execution of a program, or of one part of it."""

    dot_flops: int = 0  # 2 m n k of each matmul that is executed
    conv_flops: int = 0  # of cuDNN's also products with padding and with the zeros of dilation
    bytes: int = 0  # read and written by all instructions, as if no cache held anything
    launches: Counter = field(default_factory=Counter)  # executed instructions, by kind
    loops: list[tuple[str, int, int]] = field(default_factory=list)  # name, steps, launches a step

    @property
    def flops(self) -> int:
        return self.dot_flops + self.conv_flops

    def add(self, other: "Counts", times: int = 1) -> None:
        """Add the counts of a part that is executed some number of times."""
        self.dot_flops += times * other.dot_flops
        self.conv_flops += times * other.conv_flops
        self.bytes += times * other.bytes
        for kind, count in other.launches.items():
            self.launches[kind] += times * count
        self.loops += other.loops


class Instruction(NamedTuple):
    name: str
    type: str
    opcode: str
    arguments: str
    attributes: str

    @property
    def operands(self) -> list[str]:
        return re.findall(r"%([\w.\-]+)", self.arguments)


Computation = dict[str, Instruction]
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*)$")
_OPCODE = re.compile(r"\s*([\w\-]+)\(")
_SHAPE = re.compile(r"([a-z]+[0-9]*(?:e\dm\d\w*)?)\[([0-9,]*)\]")


def count_program(text: str) -> Counts:
    """Count what one execution of a compiled program does.

    Args:
        text: of `jax.stages.Compiled.as_text`.

    Raises:
        ValueError: the text is of another form, or a loop's number of steps is unknown.
    """
    entry, computations = parse_program(text)

    @functools.cache
    def count(name: str) -> Counts:
        total, computation = Counts(), computations[name]
        for instruction in computation.values():
            _count_instruction(total, instruction, computation, computations, count)
        return total

    return count(entry)


def parse_program(text: str) -> tuple[str, dict[str, Computation]]:
    """Return the entry's name, and the instructions of all computations by their names."""
    entry, computations, current = "", {}, None
    for line in text.splitlines():
        if header := _HEADER.match(line):
            current = computations.setdefault(header[2], {})
            entry = header[2] if header[1] else entry
        elif current is not None and (found := _INSTRUCTION.match(line)):
            current[found[1]] = _parse_instruction(found[1], found[2])
    if not entry:
        raise ValueError("the text of the program has no ENTRY computation")
    return entry, computations


def _parse_instruction(name: str, rest: str) -> Instruction:
    rest = re.sub(r"/\*.*?\*/", "", rest)
    if rest.startswith("("):
        end = _closing(rest, 0) + 1
    else:
        end = rest.index(" ")
    opcode = _OPCODE.match(rest, end)
    close = _closing(rest, opcode.end() - 1)
    arguments = rest[opcode.end() : close]
    return Instruction(name, rest[:end], opcode[1], arguments, rest[close + 1 :])


def _closing(text: str, start: int) -> int:
    """Return the index of the parenthesis that closes the one at `start`."""
    depth = 0
    for i in range(start, len(text)):
        depth += (text[i] == "(") - (text[i] == ")")
        if depth == 0:
            return i
    raise ValueError(f"unbalanced parentheses in {text[start : start + 80]!r}")


def _count_instruction(total, instruction, computation, computations, count) -> None:
    opcode, attributes = instruction.opcode, instruction.attributes
    if opcode == "while":
        body, steps = count(called(attributes, "body")), _steps(instruction, computations)
        total.add(body, steps)
        total.loops.append((instruction.name, steps, sum(body.launches.values())))
    elif opcode in ("call", "async-start") and (name := called(attributes, "to_apply|calls")):
        total.add(count(name))
    elif opcode == "conditional":
        branches = re.search(r"branch_computations=\{([^}]*)\}", attributes)
        names = (
            re.findall(r"%([\w.\-]+)", branches[1])
            if branches
            else re.findall(r"(?:true|false)_computation=%([\w.\-]+)", attributes)
        )
        total.add(max(map(count, names), key=lambda counts: counts.flops))
    elif opcode not in FREE and not opcode.endswith(("-done", "-update")):
        total.launches[_kind(instruction)] += 1
        for inner, shapes in _products(instruction, computation, computations):
            flops = _flops(inner, shapes)
            if inner.opcode == "dot":
                total.dot_flops += flops
            else:
                total.conv_flops += flops
        total.bytes += _bytes(instruction, computation, computations)


def _steps(loop: Instruction, computations: dict[str, Computation]) -> int:
    """Return how often a loop's body is executed, by the compiler's note or else its condition."""
    if noted := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes):
        return int(noted[1])
    condition = computations[called(loop.attributes, "condition")]
    constants = [i for i in condition.values() if i.opcode == "constant"]
    compared = list(condition.values())[-1]
    if len(constants) == 1 and "direction=LT" in compared.attributes:
        return int(constants[0].arguments)  # the loops of `lax.scan` count from 0
    raise ValueError(f"the number of steps of the loop {loop.name} is unknown")


def _kind(instruction: Instruction) -> str:
    if COLLECTIVE.match(instruction.opcode):
        return "collective"
    opcode = instruction.opcode.removesuffix("-start")
    return opcode if opcode in ("fusion", "custom-call") else "other"


def called(attributes: str, key: str) -> str | None:
    found = re.search(rf"\b(?:{key})=%?([\w.\-]+)", attributes)
    return found and found[1]


def _products(
    instruction: Instruction, computation: Computation, computations: dict[str, Computation]
) -> Iterator[tuple[Instruction, list[str]]]:
    """Yield the matmuls and convolutions in an instruction, each with the types of its operands."""
    if instruction.opcode in ("fusion", "fusion-start"):
        inside = computations[called(instruction.attributes, "calls")]
        for inner in inside.values():
            yield from _products(inner, inside, computations)
    elif instruction.opcode in ("dot", "convolution") or "__cu" in instruction.attributes:
        yield instruction, [computation[name].type for name in instruction.operands]


def _flops(instruction: Instruction, operands: list[str]) -> int:
    attributes = instruction.attributes
    output, left, right = (_dims(t)[0] for t in (instruction.type, *operands[:2]))
    if instruction.opcode == "dot" or "gemm" in attributes or "cublas" in attributes:
        contracted = re.search(r'lhs_contracting_dim(?:s=\{|ension.*?\[)"?([\d,"]*)', attributes)
        axes = [int(axis) for axis in re.findall(r"\d+", contracted[1])]
        return 2 * math.prod(output) * math.prod(left[axis] for axis in axes)
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", attributes)
    if labels is None:
        return 0
    # Every entry of the gradient (or of the result) meets every tap of the kernel, for each pair
    # of an input and an output channel of a group.
    if "convBackwardFilter" in attributes:
        kernel, grad = output, (right, labels[3])
    elif "convBackwardInput" in attributes:
        kernel, grad = right, (left, labels[3])
    elif instruction.opcode == "convolution":
        return _native_flops(attributes, labels, output, left, right)
    else:
        kernel, grad = right, (output, labels[3])
    outputs = kernel[labels[2].index("o")]
    entries = math.prod(grad[0]) // grad[0][grad[1].index("f")]
    return 2 * entries * math.prod(kernel) // outputs * outputs


def _native_flops(
    attributes: str, labels: re.Match, output: list[int], left: list[int], right: list[int]
) -> int:
    """Count the products of entries; a TPU also has batch axes of matmuls as dilated windows."""
    window = re.search(r"window=\{([^}]*)\}", attributes)
    settings = dict(entry.split("=") for entry in window[1].split()) if window else {}
    pairs = 1
    for axis in range(sum(label.isdigit() for label in labels[3])):
        sides = (
            dims[names.index(str(axis))]
            for dims, names in zip(
                (output, left, right), (labels[3], labels[1], labels[2]), strict=True
            )
        )
        stride, dilation, taps = (
            int(settings[name].split("x")[axis]) if name in settings else 1
            for name in ("stride", "lhs_dilate", "rhs_dilate")
        )
        padding = int(settings["pad"].split("x")[axis].split("_")[0]) if "pad" in settings else 0
        out, size, kernel = sides
        read = np.add.outer(np.arange(out) * stride - padding, np.arange(kernel) * taps)
        inside = (read >= 0) & (read <= (size - 1) * dilation)
        pairs *= int((inside & (read % dilation == 0)).sum())
    batch, outputs = (output[labels[3].index(name)] for name in "bf")
    return 2 * batch * outputs * right[labels[2].index("i")] * pairs


def _dims(type_: str) -> list[list[int]]:
    """Return the dimensions of all arrays in a type."""
    return [[int(d) for d in dims.split(",") if d] for _, dims in _SHAPE.findall(type_)]


def _size(type_: str) -> int:
    """Return the bytes of all arrays in a type."""
    total = 0
    for dtype, dims in _SHAPE.findall(type_):
        bits = re.search(r"\d+", dtype)
        width = BYTES.get(dtype) or (int(bits[0]) / 8 if bits else 0)
        total += int(width * math.prod(int(d) for d in dims.split(",") if d))
    return total


def _bytes(
    instruction: Instruction, computation: Computation, computations: dict[str, Computation]
) -> int:
    """Return the bytes that an instruction reads and writes; of slices only what they touch."""
    if instruction.opcode not in ("fusion", "fusion-start"):
        if instruction.opcode in ("dynamic-slice", "slice", "gather"):
            return 2 * _size(instruction.type)
        if instruction.opcode == "dynamic-update-slice":
            return 2 * _size(computation[instruction.operands[1]].type)
        read = sum(_size(computation[name].type) for name in instruction.operands)
        return read + _size(instruction.type) - _workspace(instruction)
    inside = computations[called(instruction.attributes, "calls")]
    users: dict[str, list[Instruction]] = {}
    for inner in inside.values():
        for name in inner.operands:
            users.setdefault(name, []).append(inner)
    total, updated = 0, 0
    for inner in inside.values():
        if inner.opcode == "parameter":
            total += int(_size(inner.type) * _share_read(inner, users))
        elif inner.opcode == "dynamic-update-slice":
            update = _size(inside[inner.operands[1]].type)
            updated += _size(inner.type) - update
    root = list(inside.values())[-1]
    workspace = max(map(_workspace, inside.values()))  # also in the root's type
    return total + max(0, _size(root.type) - updated - workspace)


def _workspace(instruction: Instruction) -> int:
    """Return the bytes of a library's workspace, which nobody else reads, in its result's type."""
    if "__cu" not in instruction.attributes:
        return 0
    return sum(map(_size, re.findall(r"\bs8\[[0-9]+\]", instruction.type)))


def _share_read(read: Instruction, users: dict[str, list[Instruction]]) -> float:
    """Return the share, at most 1, of a value's entries that a fusion's instructions need."""
    size, total = _elements(read.type), 0.0
    for user in users.get(read.name, []):
        if user.opcode in ("dynamic-slice", "slice", "gather"):
            needed = _share_read(user, users) if users.get(user.name) else 1.0
            total += needed * _elements(user.type) / size
        elif user.opcode == "dynamic-update-slice" and user.operands[0] == read.name:
            continue
        elif not users.get(user.name):
            return 1.0
        # Entry by entry. Of joined values, that of all is taken for the share of each.
        elif user.opcode == "concatenate" or _elements(user.type) == size:
            total += _share_read(user, users)
        else:
            return 1.0
    return min(total, 1.0)


def _elements(type_: str) -> int:
    return sum(math.prod(dims) for dims in _dims(type_))
