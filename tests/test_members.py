"""Member k among M is member k alone: parameters, metrics, actions, and hyperparameters as data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mock_agents import fast_jit, largest_difference, mock_agent, mock_batch, mock_state

from dreamer_jax import agent as agent_lib
from dreamer_jax.members import make_members, member, member_keys, stack_hypers

SEEDS = (5, 0, 3)
STEPS = 20
TOLERANCE = 1e-5  # absolute, of any weight or metric after STEPS updates


def stack(trees):
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


@fast_jit
def choose(tree, which):
    return jax.tree.map(lambda x: x[which], tree)


class Sweep:
    """Three members, of different seeds and hyperparameters, trained together and each alone.

    Args: compile_step: turns `MemberFns.train_step` into the function that is called.
    """

    def __init__(self, compile_step):
        self.agent, base = mock_agent("image", slow_critic_every=7)
        self.hypers = [
            base,
            base.replace(model_lr=1e-3, kl_balance=0.5, discount=0.9, actor_entropy=0.1),
            base.replace(actor_lr=1e-3, critic_lr=0.0, free_nats=1.0, lambda_=0.5),
        ]
        self.fns = make_members(self.agent)
        self.train_step = compile_step(self.fns.train_step)
        self.batches = [[mock_batch("image", seed=10 * m + i) for i in range(4)] for m in range(3)]
        states = [
            mock_state(self.agent, h, seed) for seed, h in zip(SEEDS, self.hypers, strict=True)
        ]
        self.initial = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
        self.together, self.metrics = self.train([0, 1, 2])
        self.alone = [self.train([k]) for k in range(3)]

    def start(self, which):
        """Copies, which training may consume."""
        return choose(self.initial, jnp.array(which))

    def train(self, which):
        state, metrics = self.start(which), []
        for i in range(STEPS):
            batch = stack([self.batches[k][i % 4] for k in which])
            state, now = self.train_step(state, batch)
            metrics.append(now)
        return state, stack(metrics)


@pytest.fixture(scope="module")
def sweep():
    return Sweep(fast_jit)


@pytest.fixture(scope="module")
def optimised_sweep():
    return Sweep(lambda step: step)


@pytest.mark.slow
@pytest.mark.parametrize("k", range(3))
def test_a_member_among_three_is_the_same_member_alone_in_optimised_programs(optimised_sweep, k):
    test_a_member_among_three_is_the_same_member_alone(optimised_sweep, k)
    test_a_members_metrics_are_those_alone(optimised_sweep, k)


@pytest.mark.parametrize("k", range(3))
def test_a_member_among_three_is_the_same_member_alone(sweep, k):
    state, _ = sweep.alone[k]
    together = member(sweep.together, k)
    for ours, theirs in (
        (together.params, member(state, 0).params),
        (together.slow_critic, member(state, 0).slow_critic),
    ):
        assert largest_difference(ours, theirs) <= TOLERANCE
    assert together.update == STEPS
    assert (jax.random.key_data(together.key) == jax.random.key_data(state.key)[0]).all()


@pytest.mark.parametrize("k", range(3))
def test_a_members_metrics_are_those_alone(sweep, k):
    for name, values in sweep.alone[k][1].items():
        together = np.asarray(sweep.metrics[name][:, k])
        np.testing.assert_allclose(together, values[:, 0], rtol=1e-4, atol=TOLERANCE, err_msg=name)


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


def test_init_is_that_of_one_agent_with_each_members_key(sweep):
    agent, _ = mock_agent("vector")
    together = fast_jit(make_members(agent).init)(
        member_keys(SEEDS, use=0), stack_hypers(sweep.hypers)
    )
    init = fast_jit(functools.partial(agent_lib.init, agent))
    for k, seed in enumerate(SEEDS):
        key = jax.random.fold_in(jax.random.key(seed, impl="threefry2x32"), 0)
        one, among = init(key, sweep.hypers[k]), member(together, k)
        assert largest_difference(one.params, among.params) <= 1e-6
        jax.tree.map(np.testing.assert_array_equal, one.hypers, among.hypers)
        assert (jax.random.key_data(one.key) == jax.random.key_data(among.key)).all()


def test_policy_steps_draw_from_each_members_own_key(sweep):
    obs = stack([mock_batch("image", seed=k).obs for k in range(3)])
    policy_step, policies = fast_jit(sweep.fns.policy_step), []
    for which in ([0, 1, 2], [1]):
        params = sweep.start(which).params
        carry = sweep.fns.init_policy(member_keys([SEEDS[k] for k in which], use=1), 2)
        actions = []
        for t in range(3):
            now = {"image": obs["image"][which, :, t]}
            is_first = jnp.full((len(which), 2), t == 0)
            carry, action = policy_step(params, carry, now, is_first)
            actions.append(action)
        policies.append((carry, jnp.stack(actions)))
    (carry, together), (alone_carry, alone) = policies
    np.testing.assert_array_equal(together[:, 1], alone[:, 0])
    assert largest_difference(member(carry, 1).state, member(alone_carry, 0).state) <= TOLERANCE
    keys = np.asarray(jax.random.key_data(carry.key))
    np.testing.assert_array_equal(keys[1], jax.random.key_data(alone_carry.key)[0])
    assert len({tuple(key) for key in keys}) == 3
    # A key is used once: the next carry holds another one.
    first = jax.random.key_data(member_keys(SEEDS, use=1))
    assert (keys != first).any(-1).all()


def test_greedy_steps_take_the_mode_whatever_the_key(sweep):
    # Without spread in the latent only the draw of the action can differ.
    params = sweep.start([0, 1, 2]).params
    out = params["model"]["rssm"]["posterior_out"]
    out["kernel"] = 0 * out["kernel"]
    out["bias"] = out["bias"].at[:, ::5].set(1e4)  # the first of each variable's five classes
    obs = {"image": np.stack([mock_batch("image").obs["image"][:, 0]] * 3)}
    is_first, actions = jnp.ones((3, 2), bool), []
    for fn in (sweep.fns.greedy_step, sweep.fns.policy_step):
        step = fast_jit(fn)
        for seeds in ([0, 1, 2], [3, 4, 5], [6, 7, 8]):
            carry = sweep.fns.init_policy(member_keys(seeds, use=1), 2)
            actions.append(step(params, carry, obs, is_first)[1])
    greedy, drawn = actions[:3], actions[3:]
    assert all((action == greedy[0]).all() for action in greedy)
    assert any((action != greedy[0]).any() for action in drawn)


def test_changed_hyperparameters_compile_nothing(sweep):
    before = sweep.train_step._cache_size()
    assert before == 2  # three members, and one
    state = sweep.start([0, 1, 2])
    batch = stack([sweep.batches[k][0] for k in range(3)])
    for factor in (1.0, 0.5, 2.0):
        hypers = jax.tree.map(lambda x, f=factor: f * x, state.hypers)
        state, _ = sweep.train_step(state.replace(hypers=hypers), batch)
    assert sweep.train_step._cache_size() == before


def test_a_training_step_gives_its_state_away_and_keeps_its_batch(sweep):
    batch = stack([sweep.batches[k][0] for k in range(3)])
    (state_info, batch_info), _ = sweep.fns.train_step.lower(sweep.initial, batch).args_info
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
