"""Lambda-returns, imagination weights and schedules against hand-worked numbers and loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dreamer_jax.behavior.returns import imagination_weight, lambda_return, linear_schedule

REWARD = jnp.array([1.0, 2.0, 3.0])
VALUE = jnp.array([4.0, 5.0, 6.0])
DISCOUNT = jnp.array([1.0, 0.5, 0.0])
BOOTSTRAP = jnp.array(7.0)


@pytest.mark.parametrize(
    ("lambda_", "expected"),
    [
        # V2 = 3 + 0 * ...                       = 3
        # V1 = 2 + 0.5 * (0.5 * 6 + 0.5 * 3)     = 4.25
        # V0 = 1 + 1 * (0.5 * 5 + 0.5 * 4.25)    = 5.625
        (0.5, [5.625, 4.25, 3.0]),
        # One step: r + d * v[t+1]: 1 + 5, 2 + 0.5 * 6, 3 + 0.
        (0.0, [6.0, 5.0, 3.0]),
        # Rewards only: 1 + 1 * (2 + 0.5 * 3), 2 + 0.5 * 3, 3.
        (1.0, [4.5, 3.5, 3.0]),
    ],
)
def test_lambda_return_by_hand(lambda_, expected):
    returns = lambda_return(REWARD, VALUE, DISCOUNT, BOOTSTRAP, lambda_)
    np.testing.assert_allclose(returns, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("lambda_", "expected"),
    [
        # V2 = 3 + 0.5 * 7                       = 6.5, whatever lambda is
        # V1 = 2 + 0.5 * (0.5 * 6 + 0.5 * 6.5)   = 5.125
        # V0 = 1 + 1 * (0.5 * 5 + 0.5 * 5.125)   = 6.0625
        (0.5, [6.0625, 5.125, 6.5]),
        (0.0, [6.0, 5.0, 6.5]),
        (1.0, [6.25, 5.25, 6.5]),
    ],
)
def test_lambda_return_bootstraps_the_last_step(lambda_, expected):
    discount = jnp.array([1.0, 0.5, 0.5])
    returns = lambda_return(REWARD, VALUE, discount, BOOTSTRAP, lambda_)
    np.testing.assert_allclose(returns, expected, rtol=1e-6)


def loop(reward, value, discount, bootstrap, lambda_):
    following, next_value, returns = bootstrap, bootstrap, []
    for t in reversed(range(len(reward))):
        mixed = (1 - lambda_) * next_value + lambda_ * following
        following, next_value = reward[t] + discount[t] * mixed, value[t]
        returns.append(following)
    return np.stack(returns[::-1])


@pytest.mark.parametrize("lambda_", [0.0, 0.3, 0.95, 1.0])
def test_lambda_return_equals_a_loop(lambda_):
    rng = np.random.default_rng(1)
    reward, value, discount = rng.normal(size=(3, 15, 4, 2)).astype(np.float32)
    bootstrap = rng.normal(size=(4, 2)).astype(np.float32)
    ours = lambda_return(*map(jnp.asarray, (reward, value, discount, bootstrap)), lambda_)
    np.testing.assert_allclose(
        ours, loop(reward, value, discount, bootstrap, lambda_), rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("wrong", ["value", "bootstrap"])
def test_lambda_return_rejects_unequal_shapes(wrong):
    arrays = {"reward": REWARD, "value": VALUE, "discount": DISCOUNT, "bootstrap": BOOTSTRAP}
    arrays[wrong] = jnp.zeros(2)
    with pytest.raises(AssertionError, match="shape"):
        lambda_return(**arrays, lambda_=0.95)


def test_imagination_weight_by_hand():
    # A step's own discount counts from the next step on, and the last one never.
    weight = imagination_weight(jnp.array([0.5, 0.5, 0.0, 0.9]))
    np.testing.assert_array_equal(weight, [1.0, 0.5, 0.25, 0.0])


def test_imagination_weight_equals_a_loop():
    discount = np.random.default_rng(2).uniform(size=(7, 3)).astype(np.float32)
    weight, expected = np.ones(3), []
    for row in discount:
        expected.append(weight)
        weight = weight * row
    np.testing.assert_allclose(imagination_weight(jnp.asarray(discount)), expected, rtol=1e-6)


def test_imagination_weight_has_no_gradient():
    grad = jax.grad(lambda d: imagination_weight(d).sum())(jnp.full((4, 2), 0.9))
    np.testing.assert_array_equal(grad, np.zeros((4, 2)))


@pytest.mark.parametrize(
    ("step", "expected"), [(0, 3.0), (1, 2.75), (2, 2.5), (4, 2.0), (5, 2.0), (10**7, 2.0)]
)
def test_linear_schedule_goes_from_start_to_final_and_stays(step, expected):
    value = linear_schedule(jnp.array(3.0), jnp.array(2.0), jnp.array(4.0), jnp.array(step))
    np.testing.assert_allclose(value, expected, rtol=1e-7)


def test_linear_schedule_without_change_is_exactly_constant():
    rate = jnp.float32(1e-3)
    for step in (0, 3, 9):
        assert linear_schedule(rate, rate, jnp.array(7.0), jnp.array(step)) == rate
