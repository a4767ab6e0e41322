"""Open-loop predictions of an agent, and its diagnostics against numbers worked by hand."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from mock_agents import mock_agent, mock_batch, mock_state

from dreamer_jax.agent import report as report_lib
from dreamer_jax.agent.report import calibration, latent_metrics, report
from dreamer_jax.model.latents import CategoricalLatent, GaussianLatent
from dreamer_jax.types import RSSMState

CONTEXT = 3


class Reported:
    """An image agent's report on sequences longer than the context."""

    def __init__(self):
        agent, hypers = mock_agent("mixed")
        self.agent = replace(agent, context=CONTEXT)
        self.state = mock_state(self.agent, hypers)
        self.batch = mock_batch("mixed", t=6)
        is_first = jnp.zeros((2, 6), bool).at[:, 0].set(True)
        self.batch = self.batch.replace(is_first=is_first)
        self.compiled = jax.jit(lambda *args: report(self.agent, *args))
        self.result = self.run(self.batch)

    def run(self, batch, state=None):
        return self.compiled(state or self.state, batch, jax.random.key(0))


@pytest.fixture(scope="module")
def reported():
    return Reported()


def test_a_report_holds_every_image(reported):
    assert set(reported.result.films) == {"image", "depth"}
    for key, film in reported.result.films.items():
        frames = reported.batch.obs[key]
        assert film.truth.shape == film.prediction.shape == film.imagined.shape == frames.shape
        np.testing.assert_allclose(film.truth, frames / 255.0, atol=1e-6)
        for shown in (film.prediction, film.imagined):
            assert shown.min() >= 0 and shown.max() <= 1 and shown.std() > 0


def with_constant_images(state):
    """Return a state whose decoder predicts 0.25 for the image, -0.1 and 2 for the depth."""
    params = state.params
    last = {"kernel": jnp.zeros((6, 6, 2, 3)), "bias": jnp.array([0.25, -0.1, 2.0])}
    decoder = {**params["model"]["decoder"], "conv_3": last}
    return state.replace(params={**params, "model": {**params["model"], "decoder": decoder}})


def test_a_report_shows_the_decoders_means_as_pictures(reported):
    films = reported.run(reported.batch, with_constant_images(reported.state)).films
    np.testing.assert_allclose(films["image"].prediction[0, 0, 0, 0], [0.75], rtol=1e-6)
    np.testing.assert_allclose(films["depth"].imagined[1, 5, 7, 9], [0.4, 1.0], rtol=1e-6)


def test_a_report_sees_the_context_and_the_actions_alone(reported):
    batch, films = reported.batch, reported.result.films

    def change(obs, start):
        """Return observations with other images from step `start` on."""
        return {
            k: x.at[:, start:].set(255 - x[:, start:]) if x.ndim == 5 else x for k, x in obs.items()
        }

    for start, seen in ((3, False), (2, True)):
        other = reported.run(batch.replace(obs=change(batch.obs, start))).films
        for name, film in films.items():
            assert (other[name].prediction != film.prediction).any() == seen
            assert (other[name].imagined != film.imagined).any() == seen
    actions = batch.action.at[:, 3].set((batch.action[:, 3] + 1) % 3)
    other = reported.run(batch.replace(action=actions)).films
    for name, film in films.items():
        np.testing.assert_array_equal(other[name].prediction[:, :3], film.prediction[:, :3])
        assert (other[name].prediction[:, 3:] != film.prediction[:, 3:]).any()
        np.testing.assert_array_equal(other[name].imagined, film.imagined)  # its own actions


def test_the_error_of_a_report_is_that_of_its_means(reported):
    result = reported.run(reported.batch, with_constant_images(reported.state))
    square = np.square(0.75 - np.asarray(result.films["image"].truth))
    np.testing.assert_allclose(result.error["image"], square.mean((0, 2, 3, 4)), rtol=1e-4)
    after = [np.asarray(e)[CONTEXT:] for k, e in result.error.items() if k != "reward"]
    np.testing.assert_allclose(result.metrics["open_loop_error"], np.mean(after), rtol=1e-5)


def test_a_batch_no_longer_than_the_context_has_diagnostics_only(reported):
    batch = jax.tree.map(lambda x: x[:, :CONTEXT], reported.batch)
    args = (reported.state, batch, jax.random.key(0))
    result = jax.eval_shape(lambda *args: report(reported.agent, *args), *args)
    assert result.films == {} and result.error == {}
    assert {"latent_kl_max", "reward_slope"} < set(result.metrics)
    assert "open_loop_error" not in result.metrics


def test_errors_count_until_a_new_episode_begins():
    predicted = {"x": jnp.array([[1.0, 2.0, 3.0, 4.0]] * 2)[..., None]}
    seen = {"x": jnp.zeros((2, 4, 1)), "other": jnp.zeros((2, 4, 1))}
    first = jnp.array([[True, True, False, True], [True, False, True, False]])
    error = report_lib._open_loop_error(predicted, seen, first, context=2)
    assert set(error) == {"x"}
    # The border in the context does not interrupt; both sequences have ended in the last step.
    np.testing.assert_allclose(error["x"], [1.0, 4.0, 9.0, np.nan])


def test_the_least_interrupted_sequences_are_shown():
    first = np.zeros((8, 5), bool)
    first[:, 0] = True
    for row, step in ((0, 1), (1, 3), (3, 2), (4, 4)):
        first[row, step] = True
    assert report_lib.least_interrupted(jnp.asarray(first)).tolist() == [2, 5, 6, 7, 4, 1]


def world_model(latent=None, **heads):
    """The parts of a world model that diagnostics call; features are the deterministic state."""
    return SimpleNamespace(
        rssm=SimpleNamespace(latent=latent), feature=lambda state: state.deter, **heads
    )


def test_latents_are_collapsed_if_their_posterior_is_always_the_prior():
    """Four variables of two classes: one that is uncertain before and known after, one that is so
    in a single step, one with posterior 0.9 for prior 0.5, and one whose posterior is the prior."""
    prior = np.full((1, 2, 4, 2), 0.5)
    posterior = prior.copy()
    posterior[0, :, 0] = posterior[0, 1, 1] = (1 - 1e-7, 1e-7)
    posterior[0, :, 2] = (0.9, 0.1)
    stats = [{"logits": jnp.log(jnp.asarray(probs, jnp.float32))} for probs in (posterior, prior)]
    metrics = latent_metrics(world_model(CategoricalLatent(4, 2)), *stats)
    third = 0.9 * np.log(1.8) + 0.1 * np.log(0.2)
    np.testing.assert_allclose(metrics["latent_kl_max"], np.log(2), rtol=1e-4)
    mean = (np.log(2) + np.log(2) / 2 + third) / 4
    np.testing.assert_allclose(metrics["latent_kl_mean"], mean, rtol=1e-4)
    assert metrics["collapsed_latents"] == 0.25


@pytest.mark.parametrize("latent", [CategoricalLatent(3, 4), GaussianLatent(3)])
def test_the_kl_of_variables_adds_up(latent):
    outs = np.random.default_rng(0).normal(size=(2, 5, latent.stats_size))
    one, two = (latent.dist(latent.stats(jnp.asarray(out, jnp.float32))) for out in outs)
    each = one.kl_by_variable(two)
    assert each.shape == (5, 3)
    np.testing.assert_allclose(each.sum(-1), one.kl_divergence(two), rtol=1e-5)


def test_predicted_rewards_and_discounts_are_compared_with_those_seen():
    batch = mock_batch(b=1, t=4).replace(
        reward=jnp.array([[0.0, 2.0, 0.0, -4.0]]),
        is_terminal=jnp.array([[False, False, False, True]]),
    )
    deter = jnp.array([[0.1, 0.5, -0.1, -0.5]])[..., None]
    wm = world_model(
        predict_reward=lambda params, feat: feat[..., 0],
        predict_discount=lambda params, feat, gamma: gamma - 0.1 * (feat[..., 0] < 0),
        reward_transform=lambda reward: reward / 2,
        discount=True,
    )
    state = RSSMState(deter, deter)
    metrics = calibration(wm, {}, state, batch, jnp.float32(0.8))
    expected = {
        "reward_predicted": 0.0,
        "reward_seen": -0.25,
        "reward_nonzero": 0.5,
        "reward_error": (0.1**2 + 0.5**2 + 0.1**2 + 1.5**2) / 4,
        "reward_slope": (0.5 * 1 + 0.5 * 2) / (1 + 4),
        "discount_predicted": 0.75,
        "discount_seen": 0.6,
        "discount_at_end": 0.7,
    }
    assert set(metrics) == set(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-5, atol=1e-7, err_msg=name)
    nothing = batch.replace(reward=jnp.zeros((1, 4)), is_terminal=jnp.zeros((1, 4), bool))
    metrics = calibration(wm, {}, state, nothing, jnp.float32(0.8))
    assert metrics["reward_nonzero"] == 0 and np.isnan(metrics["reward_slope"])
    assert np.isnan(metrics["discount_at_end"])
    wm.discount = None
    assert "discount_seen" not in calibration(wm, {}, state, batch, jnp.float32(0.8))
