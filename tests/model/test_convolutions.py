"""The formulations of convolutions against each other and against loops."""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax.model.networks import IMAGE_KERNELS
from dreamer_jax.model.ops import winograd
from dreamer_jax.model.ops.activations import ACTIVATIONS, LINEAR
from dreamer_jax.model.ops.convolutions import FORMULATIONS, LAX, Conv, make_formulation
from dreamer_jax.runtime import make_backend

# Every formulation with all images in one slice.
WHOLE = {name: make(2**40) for name, make in FORMULATIONS.items()}
# (size of the images, kernel, size of the result) of every layer of encoder and decoder.
ENCODER = list(zip((64, 31, 14, 6), IMAGE_KERNELS[64].encoder, (31, 14, 6, 2), strict=True))
DECODER = list(zip((1, 5, 13, 30), IMAGE_KERNELS[64].decoder, (5, 13, 30, 64), strict=True))
LAYERS = [("conv", *row) for row in ENCODER] + [("conv_transpose", *row) for row in DECODER]


@pytest.fixture(autouse=True)
def few_are_many(request, monkeypatch):
    """Let Winograd's sums apply even to the few images of these tests."""
    if "for_many_images" not in request.node.name:
        monkeypatch.setattr(winograd, "MANY", 0)


def arrays(size, kernel, members=(), channels=2, outputs=3):
    rng = np.random.default_rng(size)
    images = (*members, 2, size, size, channels)
    shapes = images, (*members, kernel, kernel, channels, outputs)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


@pytest.mark.parametrize("channels", [2, 32])  # too few for winograd, and enough
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
@pytest.mark.parametrize("formulation", ["matmul", "winograd"])
def test_slices_of_images_change_nothing(monkeypatch, formulation, operation, kernel, channels):
    """Seven images in three slices, the last one padded, or in seven equal one slice."""
    monkeypatch.setattr(winograd, "WIDE", 0)
    monkeypatch.setattr(winograd, "MIN_SLICE", 0)
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
@pytest.mark.parametrize("taps", [2, 3])
@pytest.mark.parametrize("outputs", [2, 3])  # along an axis: full tiles, and half a tile
@pytest.mark.parametrize("operation", sorted(LOOPS))
def test_winograd_equals_a_loop(monkeypatch, operation, outputs, taps, stride):
    """They agree even with few channels, and where the kernel misses the images' border."""
    monkeypatch.setattr(winograd, "WIDE", 0)
    kernel = taps * stride
    size = outputs if operation == "conv_transpose" else kernel + outputs * stride - 1
    images, kernels = arrays(size, kernel)
    apply = jax.jit(getattr(WHOLE["winograd"], operation), static_argnums=2)
    expected = LOOPS[operation](np.asarray(images), np.asarray(kernels), stride)
    np.testing.assert_allclose(apply(images, kernels, stride), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("operation", "size", "kernel", "fewer"),
    # 9 products for 16, and 16 for 36 less half a tile of 13 pixels; the sums come on top.
    [("conv", 14, 4, 9 / 16), ("conv_transpose", 13, 6, 16 / 36 * (14 / 13) ** 2)],
)
def test_winograd_computes_as_much_less_as_it_says(operation, size, kernel, fewer):
    images, kernels = arrays(size, kernel, channels=256, outputs=256)
    images = jnp.concatenate([images] * 16)  # they share the sums of the kernel

    def flops(name):
        apply = getattr(WHOLE[name], operation)

        def gradients(images, kernels):
            values, pull = jax.vjp(lambda x, k: apply(x, k, 2), images, kernels)
            return values, pull(values)

        return jax.jit(gradients).lower(images, kernels).cost_analysis()["flops"]

    assert fewer < flops("winograd") / flops("matmul") < 1.2 * fewer


def test_winograd_leaves_bfloat16_alone():
    """In bfloat16 its sums would lose digits: the results equal those of `matmul` exactly."""
    images, kernels = (x.astype(jnp.bfloat16) for x in arrays(6, 4, channels=32))
    results = [WHOLE[name].conv(images, kernels, 2) for name in ("winograd", "matmul")]
    assert results[0].dtype == jnp.bfloat16
    np.testing.assert_array_equal(*(np.asarray(x, np.float32) for x in results))


@pytest.mark.parametrize("operation", ["conv", "conv_transpose"])
def test_winograd_is_for_many_images(operation):
    """A policy sees one image per environment, too few to be worth the kernel's sums."""

    def flops(name, n):
        images, kernels = jnp.zeros((n, 14, 14, 128)), jnp.zeros((4, 4, 128, 128))
        layer = jax.jit(getattr(WHOLE[name], operation), static_argnums=2)
        return layer.lower(images, kernels, 2).cost_analysis()["flops"]

    assert flops("winograd", 1) == flops("matmul", 1)
    assert flops("winograd", 64) < flops("matmul", 64)


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
    assert loops("matmul", replace(cpu, slice_bytes=1))
    # Winograd's slices are never smaller than is worthwhile.
    assert cpu.convolutions == "winograd" and not loops("auto", replace(cpu, slice_bytes=1))


def test_unknown_formulation_is_refused_with_the_choices():
    with pytest.raises(ValueError, match="'matmull'.*lax, matmul, winograd.*Did you mean 'matmul'"):
        make_formulation("matmull", make_backend("cpu"))
