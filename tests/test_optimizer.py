"""The optimizer against one step worked by hand, a NumPy loop, and optax's Adam."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dreamer_jax.optimizer import apply_gradients, make_optimizer, scale_by_adam_hat


def step_once(grads, *, lr=0.1, clip=1e6, eps=0.01, decay=0.0):
    params = {"a": jnp.array([1.0]), "b": jnp.array([1.0])}
    optimizer = make_optimizer(clip=clip, eps=eps, decay=decay)
    grads = {"a": jnp.array([grads[0]]), "b": jnp.array([grads[1]])}
    params, _, norm = apply_gradients(optimizer, grads, optimizer.init(params), params, lr)
    return np.array([params["a"][0], params["b"][0]]), norm


def test_first_step_by_hand():
    # m = 0.1 g, v = 0.001 g^2, correction sqrt(0.001) / 0.1 = 0.3162278, so the step is
    # 0.03162278 g / (0.03162278 |g| + 0.01): 0.6548577 for 0.6 and -0.7166996 for -0.8.
    weights, norm = step_once([0.6, -0.8])
    np.testing.assert_allclose(weights, [1 - 0.06548577, 1 + 0.07166996], rtol=1e-6)
    np.testing.assert_allclose(norm, 1.0, rtol=1e-6)


def test_the_global_norm_is_clipped_and_reported_before_the_clip():
    # [3, -4] has norm 5: clipped to 1 it is the gradient of the test above.
    weights, norm = step_once([3.0, -4.0], clip=1.0)
    np.testing.assert_allclose(weights, [1 - 0.06548577, 1 + 0.07166996], rtol=1e-6)
    np.testing.assert_allclose(norm, 5.0, rtol=1e-6)
    unclipped, _ = step_once([3.0, -4.0], clip=5.1)
    assert abs(unclipped - weights).min() > 0.01


@pytest.mark.parametrize("lr", [0.0, 0.1])
def test_decay_is_a_share_of_the_weights_whatever_the_learning_rate(lr):
    plain, _ = step_once([0.6, -0.8], lr=lr)
    decayed, _ = step_once([0.6, -0.8], lr=lr, decay=0.01)
    np.testing.assert_allclose(plain - decayed, [0.01, 0.01], rtol=1e-5)


def test_the_learning_rate_belongs_to_the_call():
    """One optimizer state serves every learning rate: the moments do not hold it."""
    optimizer = make_optimizer(clip=1.0, eps=1e-5, decay=0.0)
    params = jnp.array([2.0, 3.0])
    grads = jnp.array([0.1, -0.2])
    moves, states = [], []
    for lr in (1e-3, jnp.float32(3e-3)):
        new, state, _ = apply_gradients(optimizer, grads, optimizer.init(params), params, lr)
        moves.append(new - params)
        states.append(state)
    np.testing.assert_allclose(moves[1], 3 * moves[0], rtol=1e-3)
    jax.tree.map(np.testing.assert_array_equal, *states)
    with pytest.raises(TypeError, match="lr"):
        optimizer.update(grads, optimizer.init(params), params)


def loop(grads, weights, *, lr, clip, eps, decay):
    """The update rule as it is written down, in float64."""
    m, v = np.zeros_like(weights), np.zeros_like(weights)
    for t, grad in enumerate(grads, 1):
        grad = grad * min(1, clip / np.linalg.norm(grad))
        m = 0.9 * m + 0.1 * grad
        v = 0.999 * v + 0.001 * grad**2
        step = np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + eps)
        weights = weights - lr * step - decay * weights
    return weights


@pytest.mark.parametrize("clip", [0.5, 100.0])
def test_many_steps_equal_a_loop(clip):
    rng = np.random.default_rng(3)
    grads, weights = rng.normal(size=(30, 5)), rng.normal(size=5)
    settings = {"clip": clip, "eps": 1e-2, "decay": 1e-3}
    optimizer = make_optimizer(**settings)
    params = jnp.asarray(weights, jnp.float32)
    state = optimizer.init(params)
    step = jax.jit(lambda g, s, p: apply_gradients(optimizer, g, s, p, 0.03)[:2])
    for grad in grads:
        params, state = step(jnp.asarray(grad, jnp.float32), state, params)
    expected = loop(grads, weights, lr=0.03, **settings)
    np.testing.assert_allclose(params, expected, rtol=0, atol=1e-5)


def test_the_first_steps_are_not_short():
    """The moments and their correction use the same rates, to the last digits of float32."""
    ours = scale_by_adam_hat(0.9, 0.999, 0.0)
    grad = jnp.array([0.3])
    state = ours.init(grad)
    for tolerance in (1e-6, 1e-5, 1e-5):  # 0.999^2 and 0.999^3 are rounded too
        step, state = ours.update(grad, state)
        np.testing.assert_allclose(step, [1.0], rtol=tolerance)  # of a constant gradient


def test_without_epsilon_it_is_adam():
    ours, theirs = scale_by_adam_hat(0.9, 0.999, 0.0), optax.scale_by_adam(0.9, 0.999, 0.0)
    params = jnp.zeros(4)
    a, b = ours.init(params), theirs.init(params)
    rng = np.random.default_rng(4)
    for _ in range(20):
        grads = jnp.asarray(rng.normal(size=4), jnp.float32)
        (x, a), (y, b) = ours.update(grads, a), theirs.update(grads, b)
        np.testing.assert_allclose(x, y, rtol=1e-4)


def test_epsilon_weighs_more_than_adams_at_first_and_the_same_after_many_steps():
    """A constant gradient g takes Adam g / (|g| + eps), and at step 1 us less than that."""
    eps, grad = 0.1, jnp.array([0.1])
    ours = scale_by_adam_hat(0.9, 0.999, eps)
    state = ours.init(grad)
    # 0.03162278 * 0.1 / (0.03162278 * 0.1 + 0.1) = 0.0306535; Adam's is 0.5.
    step, state = ours.update(grad, state)
    np.testing.assert_allclose(step, [0.0306535], rtol=1e-5)
    update = jax.jit(ours.update)
    for _ in range(10_000):
        step, state = update(grad, state)
    np.testing.assert_allclose(step, [0.5], rtol=1e-3)


def test_gradients_of_another_structure_are_refused():
    optimizer = make_optimizer(clip=1.0, eps=1e-5, decay=0.0)
    params = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
    with pytest.raises(AssertionError):
        apply_gradients(optimizer, {"a": jnp.ones(2)}, optimizer.init(params), params, 0.1)
