"""Member k among M equals member k alone: parameters, metrics, actions; hypers are data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import optimized_programs
from mock_agents import (
    largest_difference,
    mock_agent,
    mock_batch,
    mock_state,
    shared_agent,
    shared_members,
)

from dreamer_jax.agent import agent as agent_lib
from dreamer_jax.agent.members import make_members, member, stack_hypers
from dreamer_jax.seeding import member_keys

SEEDS = (5, 0, 3)
STEPS = 20
TOLERANCE = 1e-5  # absolute, of any weight or metric after STEPS updates


def stack(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


class Sweep:
    """Three members with different seeds and hyperparameters, trained together and each alone.

    Args:
        obs: kind of the observations.
        agent: the agent of every member.
        base: hyperparameters that the members vary.
        step: compiled update of all members, `(state, batch) -> state, metrics`.
        alone: compiled update of one member without a leading axis.
    """

    def __init__(self, obs, agent, base, step, alone):
        self.agent, self.step = agent, step
        self.hypers = [
            base,
            base.replace(model_lr=1e-3, kl_balance=0.5, discount=0.9, actor_entropy=0.1),
            base.replace(actor_lr=1e-3, critic_lr=0.0, free_nats=1.0, lambda_=0.5),
        ]
        self.batches = [
            [mock_batch(obs, b=4, t=6, seed=10 * m + i) for i in range(4)] for m in range(3)
        ]
        states = [mock_state(agent, h, seed) for seed, h in zip(SEEDS, self.hypers, strict=True)]
        self.initial = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        self.together, self.metrics = self.start(), []
        for i in range(STEPS):
            batch = stack([rows[i % 4] for rows in self.batches])
            self.together, metrics = step(self.together, batch)
            self.metrics.append(metrics)
        self.alone = []
        for state, rows in zip(states, self.batches, strict=True):
            history = []
            for i in range(STEPS):
                state, metrics = alone(state, rows[i % 4])
                history.append(metrics)
            self.alone.append((state, history))

    def start(self):
        """Return a copy of all members' initial states, which training may donate."""
        return jax.tree.map(jnp.copy, self.initial)


@pytest.fixture(scope="module", params=[True, False], ids=["together", "one by one"])
def fns(request):
    """Return functions mapped over members as on accelerators, or as on a CPU."""
    return shared_members(request.param)


@pytest.fixture(scope="module")
def sweep(fns):
    agent, hypers, alone = shared_agent()
    return Sweep("vector", agent, hypers, fns.train_step, alone)


@pytest.fixture(scope="module")
def image_sweep():
    agent, hypers = mock_agent("image")
    step = make_members(agent).train_step

    def alone(state, batch):
        return member(step(*jax.tree.map(lambda x: x[None], (state, batch))), 0)

    with optimized_programs():
        return Sweep("image", agent, hypers, step, alone)


@pytest.mark.slow
@pytest.mark.parametrize("k", range(3))
def test_a_member_that_sees_images_is_the_same_alone_in_optimised_programs(image_sweep, k):
    test_a_member_among_three_is_the_same_member_alone(image_sweep, k)
    test_a_members_metrics_are_those_alone(image_sweep, k)


@pytest.mark.parametrize("k", range(3))
def test_a_member_among_three_is_the_same_member_alone(sweep, k):
    (alone, _), together = sweep.alone[k], member(sweep.together, k)
    assert largest_difference(together.params, alone.params) <= TOLERANCE
    assert largest_difference(together.slow_critic, alone.slow_critic) <= TOLERANCE
    assert together.update == alone.update == STEPS
    assert (jax.random.key_data(together.key) == jax.random.key_data(alone.key)).all()


@pytest.mark.parametrize("k", range(3))
def test_a_members_metrics_are_those_alone(sweep, k):
    for together, alone in zip(sweep.metrics, sweep.alone[k][1], strict=True):
        for name, value in alone.items():
            np.testing.assert_allclose(
                together[name][k], value, rtol=1e-4, atol=TOLERANCE, err_msg=name
            )


def test_members_differ_as_their_seeds_and_hyperparameters_do(sweep):
    for a, b in ((0, 1), (1, 2), (0, 2)):
        one, two = member(sweep.together, a), member(sweep.together, b)
        assert largest_difference(one.params, two.params) > 0.01
    # A learning rate of 0 leaves the third critic as it began, but for the decay of 1e-6.
    moved = []
    for k in (1, 2):
        start, final = (member(s, k).params["critic"] for s in (sweep.initial, sweep.together))
        moved.append(largest_difference(start, final))
    assert moved[1] <= 2 * STEPS * 1e-6 < 1e-3 < moved[0]


def test_init_is_that_of_one_agent_with_each_members_key(sweep, fns):
    together = fns.init(member_keys(SEEDS, use=0), stack_hypers(sweep.hypers))
    init = jax.jit(functools.partial(agent_lib.init, sweep.agent))
    for k, seed in enumerate(SEEDS):
        key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), 0)
        one, among = init(key, sweep.hypers[k]), member(together, k)
        assert largest_difference(one.params, among.params) <= 1e-6
        jax.tree.map(np.testing.assert_array_equal, one.hypers, among.hypers)
        assert (jax.random.key_data(one.key) == jax.random.key_data(among.key)).all()


def test_policy_steps_draw_from_each_members_own_key(sweep, fns):
    obs = {"position": np.random.default_rng(0).normal(size=(3, 3, 2, 3)).astype(np.float32)}
    policy_step, policies = jax.jit(fns.policy_step), []
    for which in ([0, 1, 2], [1]):
        params = jax.tree.map(lambda x, which=which: x[jnp.array(which)], sweep.initial.params)
        carry = fns.init_policy(member_keys([SEEDS[k] for k in which], use=1), 2)
        actions = []
        for t in range(3):
            is_first = jnp.full((len(which), 2), t == 0)
            now = {"position": obs["position"][t, which]}
            carry, action = policy_step(params, carry, now, is_first)
            actions.append(action)
        policies.append((carry, np.stack(actions)))
    (carry, together), (alone_carry, alone) = policies
    np.testing.assert_array_equal(together[:, 1], alone[:, 0])
    assert largest_difference(member(carry, 1).state, member(alone_carry, 0).state) <= TOLERANCE
    keys = np.asarray(jax.random.key_data(carry.key))
    np.testing.assert_array_equal(keys[1], jax.random.key_data(alone_carry.key)[0])
    assert len({tuple(key) for key in keys}) == 3
    # A key is used once: the next carry holds another one.
    first = jax.random.key_data(member_keys(SEEDS, use=1))
    assert (keys != first).any(-1).all()


def test_greedy_steps_take_the_mode_whatever_the_key(sweep, fns):
    # Without spread in the latent only the draw of the action can differ.
    params = sweep.start().params
    out = params["model"]["rssm"]["posterior_out"]
    out["kernel"] = 0 * out["kernel"]
    out["bias"] = out["bias"].at[:, ::5].set(1e4)  # the first of each variable's five classes
    obs, is_first = {"position": jnp.ones((3, 2, 3))}, jnp.ones((3, 2), bool)
    actions = []
    for fn in (fns.greedy_step, fns.policy_step):
        step = jax.jit(fn)
        for seeds in ([0, 1, 2], [3, 4, 5], [6, 7, 8]):
            carry = fns.init_policy(member_keys(seeds, use=1), 2)
            actions.append(step(params, carry, obs, is_first)[1])
    greedy, drawn = actions[:3], actions[3:]
    assert all((action == greedy[0]).all() for action in greedy)
    assert any((action != greedy[0]).any() for action in drawn)


def test_changed_hyperparameters_compile_nothing(sweep):
    assert sweep.step._cache_size() == 1
    state = sweep.start()
    batch = stack([rows[0] for rows in sweep.batches])
    for factor in (1.0, 0.5, 2.0):
        hypers = jax.tree.map(lambda x, f=factor: f * x, state.hypers)
        state, _ = sweep.step(state.replace(hypers=hypers), batch)
    assert sweep.step._cache_size() == 1


def test_a_training_step_gives_its_state_away_and_keeps_its_batch(sweep, fns):
    batch = stack([rows[0] for rows in sweep.batches])
    (state_info, batch_info), _ = fns.train_step.lower(sweep.initial, batch).args_info
    assert all(leaf.donated for leaf in jax.tree.leaves(state_info))
    assert not any(leaf.donated for leaf in jax.tree.leaves(batch_info))


def test_member_keys_depend_on_seed_and_use_only():
    def bits(seeds, use):
        return np.asarray(jax.random.key_data(member_keys(seeds, use)))

    np.testing.assert_array_equal(bits([5, 0, 3], 1)[2], bits([3], 1)[0])
    assert len({tuple(row) for use in (0, 1) for row in bits([5, 0, 3], use)}) == 6


def test_stacked_hypers_are_float32_arrays(sweep):
    stacked = stack_hypers(sweep.hypers)
    assert {leaf.dtype for leaf in jax.tree.leaves(stacked)} == {np.dtype(np.float32)}
    np.testing.assert_allclose(stacked.discount, [0.999, 0.9, 0.999], rtol=1e-6)
