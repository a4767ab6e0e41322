"""The formulations of convolutions against each other and against loops."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax.model.networks import IMAGE_KERNELS
from dreamer_jax.model.ops import blocks
from dreamer_jax.model.ops.activations import ACTIVATIONS, LINEAR
from dreamer_jax.model.ops.convolutions import FORMULATIONS, LAX, Conv, make_formulation
from dreamer_jax.runtime import make_backend

# Every formulation with all images in one slice.
WHOLE = {name: make(2**40) for name, make in FORMULATIONS.items()}
# (size of the images, kernel, size of the result) of every layer of encoder and decoder.
ENCODER = list(zip((64, 31, 14, 6), IMAGE_KERNELS[64].encoder, (31, 14, 6, 2), strict=True))
DECODER = list(zip((1, 5, 13, 30), IMAGE_KERNELS[64].decoder, (5, 13, 30, 64), strict=True))
LAYERS = [("conv", *row) for row in ENCODER] + [("conv_transpose", *row) for row in DECODER]


def arrays(size, kernel, members=(), channels=2, outputs=3):
    rng = np.random.default_rng(size)
    images = (*members, 2, size, size, channels)
    shapes = images, (*members, kernel, kernel, channels, outputs)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


@pytest.mark.parametrize("channels", [2, 32])  # thin products, and thick
@pytest.mark.parametrize(("operation", "size", "kernel", "out"), LAYERS)
def test_formulations_agree_in_values_and_gradients_over_members(
    operation, size, kernel, out, channels
):
    shape = (3, 2, out, out, channels)
    weights = jnp.asarray(np.random.default_rng(9).normal(size=shape), jnp.float32)

    def values_and_gradients(formulation, images, kernels, biases):
        layer, act = getattr(formulation, operation), ACTIVATIONS["elu"]
        apply = jax.vmap(lambda x, k, b: layer(x, k, 2, b, act))

        def loss(*args):
            values = apply(*args)
            return (weights * values).sum(), values

        return jax.grad(loss, (0, 1, 2), has_aux=True)(images, kernels, biases)

    every = jax.jit(lambda *args: [values_and_gradients(f, *args) for f in WHOLE.values()])
    biases = jnp.linspace(-1, 1, 3 * channels).reshape(3, channels)
    args = *arrays(size, kernel, (3,), channels, channels), biases
    first, *others = map(jax.tree.leaves, every(*args))
    for other in others:
        for one, two in zip(first, other, strict=True):
            assert one.shape == two.shape
            np.testing.assert_allclose(one, two, rtol=0, atol=1e-5 * np.abs(one).max())


@pytest.mark.parametrize("channels", [3, 80])  # taps that share a matmul, and with one each
@pytest.mark.parametrize(
    ("operation", "kernel"), [("conv", 4), ("conv_transpose", 5), ("conv_transpose", 6)]
)
@pytest.mark.parametrize("formulation", ["blocks", "matmul"])
def test_slices_of_images_change_nothing(formulation, operation, kernel, channels):
    """Seven images in three slices, the last one padded, or in seven equal one slice."""
    rng = np.random.default_rng(channels)
    images = jnp.asarray(rng.normal(size=(7, 6, 6, channels)), jnp.float32)
    kernels = jnp.asarray(rng.normal(size=(kernel, kernel, channels, 2)), jnp.float32)
    results = {}
    for slice_bytes in (2**30, 2**11):
        layer = getattr(FORMULATIONS[formulation](slice_bytes), operation)

        def values_and_gradients(images, kernels, bias, layer=layer):
            act = ACTIVATIONS["relu"]
            values, pull = jax.vjp(lambda x, k, b: layer(x, k, 2, b, act), images, kernels, bias)
            return values, pull(jnp.cos(jnp.arange(values.size)).reshape(values.shape))

        program, args = jax.jit(values_and_gradients), (images, kernels, jnp.array([0.5, -0.5]))
        loops = "while" in program.lower(*args).as_text()
        assert loops == (slice_bytes < 2**30)
        results[slice_bytes] = program(*args)
    for one, two in zip(*map(jax.tree.leaves, results.values()), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-5 * np.abs(two).max())


@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_slope_of_an_activation_is_its_derivative(name):
    act, x = ACTIVATIONS[name], jnp.array([-30.0, -2.0, -0.1, -1e-6, 0.1, 3.0])
    expected = jax.vmap(jax.grad(act.apply))(x)
    np.testing.assert_allclose(act.slope(act(x)), expected, rtol=0, atol=1e-6)
    assert act.slope(act(x).astype(jnp.bfloat16)).dtype == jnp.bfloat16


def loop_conv(images, kernels, stride):
    k, out = len(kernels), (images.shape[1] - len(kernels)) // stride + 1
    result = np.zeros((len(images), out, out, kernels.shape[-1]))
    for i, j, u, v in itertools.product(range(out), range(out), range(k), range(k)):
        result[:, i, j] += images[:, stride * i + u, stride * j + v] @ kernels[u, v]
    return result


def loop_conv_transpose(images, kernels, stride):
    k, size = len(kernels), images.shape[1]
    side = (size - 1) * stride + k
    result = np.zeros((len(images), side, side, kernels.shape[-1]))
    for i, j, u, v in itertools.product(range(size), range(size), range(k), range(k)):
        result[:, stride * i + u, stride * j + v] += images[:, i, j] @ kernels[u, v]
    return result


LOOPS = {"conv": loop_conv, "conv_transpose": loop_conv_transpose}


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [3, 4])
@pytest.mark.parametrize("operation", sorted(LOOPS))
@pytest.mark.parametrize("formulation", sorted(FORMULATIONS))
def test_every_formulation_equals_a_loop(formulation, operation, kernel, stride):
    images, kernels = arrays(6, kernel)
    apply = jax.jit(getattr(WHOLE[formulation], operation), static_argnums=2)
    expected = LOOPS[operation](np.asarray(images), np.asarray(kernels), stride)
    np.testing.assert_allclose(apply(images, kernels, stride), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("kernel", [2, 4, 5])
@pytest.mark.parametrize("missed", [0, 1])  # pixels of the border that no kernel reaches
@pytest.mark.parametrize("outputs", [1, 4, 5])  # along an axis; four blocks make a group
def test_grouped_gradient_of_a_kernel_equals_that_of_its_taps(
    monkeypatch, outputs, missed, kernel, stride
):
    size = (outputs - 1) * stride + kernel + min(missed, stride - 1)
    images, _ = arrays(size, kernel)
    grad = jnp.asarray(np.random.default_rng(1).normal(size=(2, outputs, outputs, 3)), jnp.float32)
    thin = blocks.kernel_grad(images, grad, kernel, stride)
    monkeypatch.setattr(blocks, "THIN", 0)
    thick = blocks.kernel_grad(images, grad, kernel, stride)
    assert thin.shape == thick.shape == (kernel, kernel, 2, 3)
    np.testing.assert_allclose(thin, thick, rtol=0, atol=1e-5 * np.abs(thick).max())


@pytest.mark.parametrize("operation", sorted(LOOPS))
def test_blocks_spread_no_inputs(operation):
    """Forward and backward, no convolution reads the zeros of a dilated array."""
    images, kernels = arrays(14, 4)

    def gradients(images, kernels):
        layer = getattr(WHOLE["blocks"], operation)
        values, pull = jax.vjp(lambda x, k: layer(x, k, 2), images, kernels)
        return pull(values)

    text = str(jax.make_jaxpr(gradients)(images, kernels))
    assert text.count("conv_general_dilated[") == 2
    assert text.count("lhs_dilation=(1, 1)") == text.count("rhs_dilation=(1, 1)") == 2


@pytest.mark.parametrize("operation", sorted(LOOPS))
@pytest.mark.parametrize("formulation", sorted(FORMULATIONS))
def test_formulations_keep_bfloat16(formulation, operation):
    exact = arrays(6, 4)
    images, kernels = (x.astype(jnp.bfloat16) for x in exact)
    layer = getattr(WHOLE[formulation], operation)
    values, pull = jax.vjp(lambda x, k: layer(x, k, 2), images, kernels)
    assert [x.dtype for x in (values, *pull(values))] == [jnp.bfloat16] * 3
    expected = LOOPS[operation](*map(np.asarray, exact), 2)
    np.testing.assert_allclose(np.asarray(values, np.float32), expected, rtol=0, atol=0.2)


def test_one_pixel_by_hand():
    """A kernel [[1, 2], [3, 4]] maps a single pixel to four, and back."""
    kernel = jnp.array([[1.0, 2.0], [3.0, 4.0]])[..., None, None]
    for formulation in WHOLE.values():
        spread = formulation.conv_transpose(jnp.full((1, 1, 1, 1), 2.0), kernel, 2)
        np.testing.assert_array_equal(spread[0, ..., 0], [[2.0, 4.0], [6.0, 8.0]])
        # 2 * 1 + 4 * 2 + 6 * 3 + 8 * 4
        np.testing.assert_array_equal(formulation.conv(spread, kernel, 2), np.full((1,) * 4, 60.0))


def test_layer_adds_its_bias_and_computes_in_its_dtype():
    conv = Conv(3, 4, 2, WHOLE["matmul"].conv, LINEAR, jnp.bfloat16)
    images, _ = arrays(6, 4)
    params = conv.init(jax.random.key(0), images)["params"]
    assert {k: (v.shape, v.dtype) for k, v in params.items()} == {
        "kernel": ((4, 4, 2, 3), jnp.float32),
        "bias": ((3,), jnp.float32),
    }
    plain = conv.apply({"params": params}, images)
    assert plain.dtype == jnp.bfloat16
    params["bias"] = jnp.array([1.0, 2.0, 3.0])
    moved = conv.apply({"params": params}, images)
    difference = (moved - plain).astype(jnp.float32)
    np.testing.assert_allclose(difference, np.broadcast_to([1, 2, 3], (2, 2, 2, 3)), atol=0.05)


def test_auto_is_the_backends_choice_with_its_slices():
    cpu = make_backend("cpu")
    assert make_formulation("auto", make_backend("tpu")) is LAX
    assert make_formulation("lax", cpu) is LAX

    def loops(name, backend):
        images, kernels = arrays(6, 4, channels=32)
        layer = jax.jit(make_formulation(name, backend).conv, static_argnums=2)
        return "while" in layer.lower(images, kernels, 2).as_text()

    assert not loops("auto", cpu) and not loops("matmul", cpu)
    small = replace(cpu, slice_bytes=1)
    assert cpu.convolutions == "blocks" and loops("auto", small) and loops("matmul", small)


def test_unknown_formulation_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="'matmull'.*blocks, lax, matmul.*Did you mean 'matmul'"):
        make_formulation("matmull", make_backend("cpu"))
