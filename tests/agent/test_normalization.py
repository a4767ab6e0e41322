"""Vectors of any unit and offset are learned alike once they are standardised."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import make_tiny_config
from mock_agents import ACTIONS, mock_agent, mock_batch, train_step

from dreamer_jax import UsageError
from dreamer_jax.agent import agent as agent_lib
from dreamer_jax.agent.agent import init_policy, policy_step, read_obs
from dreamer_jax.agent.build import make_agent
from dreamer_jax.agent.members import guarded_train_step
from dreamer_jax.config.sweep import member_hypers
from dreamer_jax.model.normalization import init_stats, standardize, update_stats
from dreamer_jax.run.setup import dry_run
from dreamer_jax.runtime import make_backend
from dreamer_jax.types import STATS

NORMALIZE = {"layers": 2, "units": 16, "normalize": ".*"}
UNITS = (0.01, 1.0, 100.0)  # of the entries of `position`
OFFSETS = (5.0, 0.0, -300.0)


def init(agent, hypers):
    return jax.jit(functools.partial(agent_lib.init, agent))(jax.random.key(0), hypers)


def test_statistics_are_those_of_all_batches_together():
    rng = np.random.default_rng(0)
    batches = 50 + UNITS * rng.normal(size=(7, 4, 6, 3)) * np.arange(1, 8)[:, None, None, None]
    stats = init_stats({"position": 3})
    for batch in batches.astype(np.float32):
        stats = update_stats(stats, {"position": jnp.asarray(batch), "other": jnp.zeros((4, 6))})
    assert float(stats["batches"]) == 7
    values = batches.reshape(-1, 3)
    np.testing.assert_allclose(stats["mean"]["position"], values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["variance"]["position"], values.var(0), rtol=1e-3)


def test_values_become_standard_deviations():
    stats = {
        "batches": 1.0,
        "mean": {"position": jnp.array([1.0, 10.0, 3.0])},
        "variance": {"position": jnp.array([4.0, 0.25, 0.0])},
    }
    obs = {"position": jnp.array([[2.0, 100.0, 3.0], [-3.0, 9.0, 4.0]]), "image": jnp.ones(2)}
    result = standardize(stats, obs)
    # An entry that has never changed is 0, and at its first change is clipped.
    np.testing.assert_allclose(result["position"], [[0.5, 10.0, 0.0], [-2.0, -2.0, 10.0]])
    assert result["image"] is obs["image"]


def test_small_values_do_not_change_before_the_first_update():
    agent, hypers = mock_agent("mixed", vector=NORMALIZE)
    params, obs = init(agent, hypers).params, mock_batch("mixed").obs
    prepared = read_obs(params, obs)
    np.testing.assert_array_equal(prepared["position"], obs["position"])
    np.testing.assert_allclose(prepared["image"], obs["image"] / 255 - 0.5, atol=1e-7)


@pytest.mark.parametrize("normalize", ["position", ""])
def test_units_and_offsets_do_not_matter_where_vectors_are_standardised(normalize):
    agent, hypers = mock_agent("vector", vector=NORMALIZE | {"normalize": normalize})
    update = jax.jit(functools.partial(train_step, agent))
    act = jax.jit(functools.partial(policy_step, agent))

    def losses(units, offsets):
        state, rows = init(agent, hypers), []
        for number in range(4):
            batch = mock_batch("vector", b=4, t=6, seed=number)
            scaled = np.array(batch.obs["position"]) * units + offsets
            scaled = jnp.asarray(scaled, jnp.float32)
            state, metrics = update(state, batch.replace(obs={"position": scaled}))
            rows.append([metrics[k] for k in ("position_loss", "kl", "reward_loss", "actor_loss")])
        carry = init_policy(agent, jax.random.key(1), 4)
        carry, _ = act(state.params, carry, {"position": scaled[:, 0]}, np.ones(4, bool))
        return np.array(rows), np.asarray(carry.state.deter)

    given, plain = losses(UNITS, OFFSETS), losses((1.0,) * 3, (0.0,) * 3)
    same = [np.allclose(x, y, rtol=1e-3, atol=1e-3) for x, y in zip(given, plain, strict=True)]
    assert same == [bool(normalize)] * 2


@pytest.mark.parametrize(("normalize", "learned"), [(".*", True), ("", False)])
def test_a_reward_that_a_small_entry_tells_is_learned_beside_large_ones(normalize, learned):
    """The fault of `reacher_easy`: 0.1 m to the target, beside an angle that grows to 20 rad."""
    config = make_tiny_config(
        model_lr=3e-3, loss_scales={"reward": 30.0}, reward_transform="none",
        vector={"layers": 2, "units": 16, "normalize": normalize},
    )  # fmt: skip
    shapes = {"angle": ((2,), "float32"), "to_target": ((1,), "float32")}
    agent = make_agent(config, shapes, ACTIONS["continuous"], make_backend("cpu"))
    state, rng = init(agent, member_hypers(config)[0]), np.random.default_rng(0)
    update = jax.jit(functools.partial(train_step, agent))
    errors = []
    for _ in range(400):
        batch = mock_batch("vector", "continuous", b=8, t=8)
        small = rng.uniform(-0.1, 0.1, (8, 8, 1)).astype(np.float32)
        obs = {"angle": rng.normal(scale=20, size=(8, 8, 2)).astype(np.float32), "to_target": small}
        reward = (np.abs(small[..., 0]) < 0.05).astype(np.float32)  # of variance 0.25
        state, metrics = update(state, batch.replace(obs=obs, reward=reward))
        errors.append(2 * (float(metrics["reward_loss"]) - 0.5 * np.log(2 * np.pi)))
    assert (np.mean(errors[-50:]) < 0.1) == learned


@pytest.mark.parametrize("value", [np.nan, 3e19, np.finfo(np.float32).max])
def test_a_skipped_update_keeps_the_statistics(value):
    """Also of a number whose square is infinite, while its standardised value is not."""
    agent, hypers = mock_agent("vector", vector=NORMALIZE)
    step = jax.jit(functools.partial(guarded_train_step, agent))
    state, _ = step(init(agent, hypers), mock_batch("vector"))
    batch = mock_batch("vector", seed=1)
    position = batch.obs["position"].at[0, 1, 2].set(value)
    after, _ = step(state, batch.replace(obs={"position": position}))
    assert int(after.skipped) == 1
    jax.tree.map(np.testing.assert_array_equal, after.params[STATS], state.params[STATS])


def test_only_vectors_that_match_are_standardised():
    agent, hypers = mock_agent("mixed", vector=NORMALIZE | {"normalize": "speed"})
    assert set(init(agent, hypers).params[STATS]["mean"]) == {"speed"}
    with pytest.raises(UsageError, match=r"normalize = 'sped' .* vectors \['position', 'speed'\]"):
        mock_agent("mixed", vector=NORMALIZE | {"normalize": "sped"})


def test_statistics_are_no_parameters():
    config = make_tiny_config(task="cue:3", vector=NORMALIZE)
    assert "stats" not in dry_run(config)["parameters"]
