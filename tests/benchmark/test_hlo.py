"""Counts of compiled programs: a program written by hand, and XLA's own."""

import jax
import jax.numpy as jnp
import pytest

from dreamer_jax.benchmark.hlo import count_program

# A loop of 3 steps with a fused matmul [4, 8] @ [8, 16] on slices of a stack, then a convolution
# of two 6x6 images with 3 channels by a 3x3 kernel to 5 channels, and a sum over devices.
PROGRAM = """HloModule m, entry_computation_layout={()->f32[]}

%fused (p0: f32[3,4,8], p1: bf16[8,16], p2: s32[]) -> f32[4,16] {
  %p0 = f32[3,4,8]{2,1,0} parameter(0)
  %p1 = bf16[8,16]{1,0} parameter(1)
  %p2 = s32[] parameter(2)
  %zero = s32[] constant(0)
  %slice = f32[1,4,8]{2,1,0} dynamic-slice(%p0, %p2, %zero, %zero), dynamic_slice_sizes={1,4,8}
  %left = f32[4,8]{1,0} bitcast(%slice)
  ROOT %dot = f32[4,16]{1,0} dot(%left, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%body (state: (s32[], f32[3,4,8], bf16[8,16])) -> (s32[], f32[3,4,8], bf16[8,16]) {
  %state = (s32[], f32[3,4,8]{2,1,0}, /*index=2*/bf16[8,16]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%state), index=0
  %stack = f32[3,4,8]{2,1,0} get-tuple-element(%state), index=1
  %kernel = bf16[8,16]{1,0} get-tuple-element(%state), index=2
  %product = f32[4,16]{1,0} fusion(%stack, %kernel, %i), kind=kOutput, calls=%fused
  %next = s32[] copy(%i)
  ROOT %out = (s32[], f32[3,4,8]{2,1,0}, bf16[8,16]{1,0}) tuple(%next, %stack, %kernel)
}

%condition (state.1: (s32[], f32[3,4,8], bf16[8,16])) -> pred[] {
  %state.1 = (s32[], f32[3,4,8]{2,1,0}, bf16[8,16]{1,0}) parameter(0)
  %limit = s32[] constant(3)
  %i.1 = s32[] get-tuple-element(%state.1), index=0
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

ENTRY %main (a: (s32[], f32[3,4,8], bf16[8,16]), x: f32[2,6,6,3], k: f32[3,3,3,5]) -> f32[] {
  %a = (s32[], f32[3,4,8]{2,1,0}, bf16[8,16]{1,0}) parameter(0)
  %x = f32[2,6,6,3]{3,2,1,0} parameter(1)
  %k = f32[3,3,3,5]{3,2,1,0} parameter(2)
  %loop = (s32[], f32[3,4,8]{2,1,0}, bf16[8,16]{1,0}) while(%a), condition=%condition, body=%body
  %conv = f32[2,4,4,5]{3,2,1,0} convolution(%x, %k), window={size=3x3}, dim_labels=b01f_01io->b01f
  ROOT %sum = f32[2,4,4,5]{3,2,1,0} all-reduce(%conv), to_apply=%add
}
"""


def test_counts_worked_by_hand():
    counts = count_program(PROGRAM)
    assert counts.dot_flops == 3 * 2 * 4 * 8 * 16
    assert counts.conv_flops == 2 * (2 * 4 * 4) * (3 * 3 * 3) * 5
    assert counts.launches == {"fusion": 3, "other": 3 + 1, "collective": 1}
    assert counts.loops == [("loop", 3, 2)]
    # In a step: a slice of the stack, the kernel, the index, the product; the index, copied.
    step = 4 * 8 * 4 + 8 * 16 * 2 + 4 + 4 * 16 * 4 + 2 * 4
    x, k, conv = 2 * 6 * 6 * 3 * 4, 3 * 3 * 3 * 5 * 4, 2 * 4 * 4 * 5 * 4
    assert counts.bytes == 3 * step + (x + k + conv) + 2 * conv


# A fusion that takes one row of two of four, and two of the eight entries of joined vectors; then a
# matmul by a library, which has a workspace, alone and in a fusion.
FUSIONS = """HloModule m

%rows (p0: f32[4,8], p1: s32[], p2: f32[6], p3: f32[2]) -> f32[10] {
  %p0 = f32[4,8]{1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %p2 = f32[6]{0} parameter(2)
  %p3 = f32[2]{0} parameter(3)
  %zero = s32[] constant(0)
  %pair = f32[2,8]{1,0} dynamic-slice(%p0, %p1, %zero), dynamic_slice_sizes={2,8}
  %row = f32[1,8]{1,0} slice(%pair), slice={[0:1], [0:8]}
  %flat = f32[8]{0} bitcast(%row)
  %joined = f32[8]{0} concatenate(%p2, %p3), dimensions={0}
  %part = f32[2]{0} slice(%joined), slice={[3:5]}
  ROOT %result = f32[10]{0} concatenate(%flat, %part), dimensions={0}
}

%gemm (p0: f32[4,8], p1: f32[8,16]) -> (f32[4,16], s8[1024]) {
  %p0 = f32[4,8]{1,0} parameter(0)
  %p1 = f32[8,16]{1,0} parameter(1)
  ROOT %y = (f32[4,16]{1,0}, s8[1024]{0}) custom-call(%p0, %p1), CUBLAS
}

ENTRY %main (a: f32[4,8], i: s32[], b: f32[6], c: f32[2], k: f32[8,16]) -> f32[10] {
  %a = f32[4,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %b = f32[6]{0} parameter(2)
  %c = f32[2]{0} parameter(3)
  %k = f32[8,16]{1,0} parameter(4)
  %x = (f32[4,16]{1,0}, s8[1024]{0}) custom-call(%a, %k), CUBLAS
  %y = (f32[4,16]{1,0}, s8[1024]{0}) fusion(%a, %k), kind=kCustom, calls=%gemm
  ROOT %z = f32[10]{0} fusion(%a, %i, %b, %c), kind=kLoop, calls=%rows
}
""".replace(
    "CUBLAS",
    'custom_call_target="__cublas$gemm", backend_config={"dot_dimension_numbers":'
    '{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["0"]}}',
)


def test_bytes_are_those_that_are_needed():
    matmul = 4 * (4 * 8 + 8 * 16 + 4 * 16)  # without the workspace
    fusion = 4 * (8 + 1 + 2 + 10)  # a row, the index, two entries, the result
    assert count_program(FUSIONS).bytes == 2 * matmul + fusion


def test_products_with_padding_and_with_the_zeros_of_dilation_do_not_count():
    """As in a transposed convolution: along each axis, both entries meet all four taps."""
    text = """HloModule m

ENTRY %main (x: f32[1,2,2,3], k: f32[4,4,3,5]) -> f32[1,6,6,5] {
  %x = f32[1,2,2,3]{3,2,1,0} parameter(0)
  %k = f32[4,4,3,5]{3,2,1,0} parameter(1)
  ROOT %y = f32[1,6,6,5]{3,2,1,0} convolution(%x, %k), WINDOW, dim_labels=b01f_01io->b01f
}
"""
    window = "window={size=4x4 pad=3_3x3_3 lhs_dilate=2x2}"
    assert count_program(text.replace("WINDOW", window)).conv_flops == 2 * (2 * 4) ** 2 * 3 * 5


def test_a_loop_of_unknown_length_is_refused():
    with pytest.raises(ValueError, match="number of steps of the loop loop is unknown"):
        count_program(PROGRAM.replace("direction=LT", "direction=NE"))


def test_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match="no ENTRY"):
        count_program("HloModule m")


def test_matmuls_of_a_compiled_scan():
    def fn(x, w):
        return jax.lax.scan(lambda x, _: (jnp.tanh(x @ w), None), x, None, length=7)[0]

    compiled = jax.jit(fn).lower(jnp.ones((32, 64)), jnp.ones((64, 64))).compile()
    assert count_program(compiled.as_text()).flops == 7 * 2 * 32 * 64 * 64
