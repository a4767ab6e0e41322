"""Runs that begin with weights in the original's names: they act the same, and train on."""

import gymnasium
import numpy as np
import pytest
from conftest import make_tiny_config
from gymnasium import spaces

from dreamer_jax import UsageError, load, start_from_reference, train
from dreamer_jax.envs.catch import Catch

VECTORS = {"orientations": 3, "velocity": 2}  # as the agent observes them
ORDER = ("velocity", "orientations")  # as the original does
UNITS, STOCH, CLASSES = 16, 4, 5


class Walker(gymnasium.Env):
    """Two vectors of noise, two continuous actions."""

    def __init__(self, seed=0):
        self.observation_space = spaces.Dict(
            {name: spaces.Box(-9, 9, (size,), np.float64) for name, size in VECTORS.items()}
        )
        self.action_space = spaces.Box(-1, 1, (2,), np.float32)

    def _observe(self):
        draw = self.np_random.normal
        return {name: draw(size=size) for name, size in VECTORS.items()}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._observe(), {}

    def step(self, action):
        return self._observe(), 0.0, False, False, {}


class TwoEyes(Catch):
    def __init__(self):
        super().__init__()
        eye = self.observation_space
        self.observation_space = spaces.Dict({"left": eye, "right": eye})


def config_like_the_original():
    return make_tiny_config(
        steps=60, prefill=40, pretrain=1, eval_episodes=0, norm=True, length=5,
        discount_head={"enabled": False}, actor_grad="dynamics",
    )  # fmt: skip


def weights():
    """Random weights of the original's DMC proprio preset, with layer norm, by their names."""
    rng = np.random.default_rng(0)
    arrays = {}

    def layer(name, inputs, outputs):
        arrays[f"{name}/kernel"] = rng.normal(size=(inputs, outputs)) / inputs**0.5
        arrays[f"{name}/bias"] = rng.normal(size=outputs)

    def norm(name, size):
        arrays[f"{name}/gamma"], arrays[f"{name}/beta"] = rng.normal(size=(2, size))

    def stack(name, inputs, prefix=""):
        for i in range(2):
            layer(f"{name}/dense{i}", inputs if i == 0 else UNITS, UNITS)
            norm(f"{name}/{prefix}norm{i}", UNITS)

    feat = STOCH * CLASSES + UNITS
    stack("wm/encoder", sum(VECTORS.values()), "dense")
    stack("wm/decoder", feat, "dense")
    for name, size in VECTORS.items():
        layer(f"wm/decoder/dense_{name}/out", UNITS, size)
    layer("wm/rssm/img_in", STOCH * CLASSES + 2, UNITS)
    layer("wm/rssm/gru/dense", 2 * UNITS, 3 * UNITS)
    norm("wm/rssm/gru/norm", 3 * UNITS)
    layer("wm/rssm/img_out_0", UNITS, UNITS)
    layer("wm/rssm/img_dist_0", UNITS, STOCH * CLASSES)
    layer("wm/rssm/obs_out", 2 * UNITS, UNITS)
    layer("wm/rssm/obs_dist", UNITS, STOCH * CLASSES)
    for name in ("img_in_norm", "img_out_norm_0", "obs_out_norm"):
        norm(f"wm/rssm/{name}", UNITS)
    for name in ("wm/reward", "ac/critic", "ac/target_critic", "ac/actor"):
        stack(name, feat)
        layer(f"{name}/out/out", UNITS, 2 if name == "ac/actor" else 1)
    layer("ac/actor/out/std", UNITS, 2)
    # So certain of its latents that a sample is the mode.
    arrays["wm/rssm/obs_dist/kernel"] *= 1e4
    return {name: value.astype(np.float32) for name, value in arrays.items()}


class Original:
    """The original's policy in NumPy, with its own names and order of vectors."""

    def __init__(self, arrays):
        self.arrays = arrays
        self.deter, self.stoch, self.action = np.zeros(UNITS), np.zeros(STOCH * CLASSES), [0, 0]

    def layer(self, name, x):
        return x @ self.arrays[f"{name}/kernel"] + self.arrays[f"{name}/bias"]

    def norm(self, name, x):
        x = (x - x.mean()) / np.sqrt(x.var() + 1e-3)
        return x * self.arrays[f"{name}/gamma"] + self.arrays[f"{name}/beta"]

    def hidden(self, name, norm, x):
        x = self.norm(norm, self.layer(name, x))
        return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))

    def stack(self, name, x, prefix=""):
        for i in range(2):
            x = self.hidden(f"{name}/dense{i}", f"{name}/{prefix}norm{i}", x)
        return x

    def policy(self, obs):
        embed = self.stack("wm/encoder", np.concatenate([obs[name] for name in ORDER]), "dense")
        x = np.concatenate([self.stoch, self.action])
        x = self.hidden("wm/rssm/img_in", "wm/rssm/img_in_norm", x)
        gates = self.layer("wm/rssm/gru/dense", np.concatenate([x, self.deter]))
        reset, candidate, update = np.split(self.norm("wm/rssm/gru/norm", gates), 3)
        update = sigmoid(update - 1)
        self.deter = update * np.tanh(sigmoid(reset) * candidate) + (1 - update) * self.deter
        x = np.concatenate([self.deter, embed])
        x = self.hidden("wm/rssm/obs_out", "wm/rssm/obs_out_norm", x)
        logits = self.layer("wm/rssm/obs_dist", x).reshape(STOCH, CLASSES)
        self.stoch = np.eye(CLASSES)[logits.argmax(-1)].reshape(-1)
        x = self.stack("ac/actor", np.concatenate([self.stoch, self.deter]))
        self.action = np.tanh(self.layer("ac/actor/out/out", x))
        return self.action


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.mark.slow
def test_weights_act_the_same_and_train_on(tmp_path):
    arrays, config = weights(), config_like_the_original()
    np.savez(tmp_path / "weights.npz", **arrays)
    args = config.to_dict(), tmp_path / "run", tmp_path / "weights.npz"
    agent = start_from_reference(*args, order=ORDER, make_env=Walker)
    env, original = agent.make_env(), Original(arrays)
    obs, _ = env.reset()
    for _ in range(3):
        action = agent.policy(obs)
        np.testing.assert_allclose(action, original.policy(obs), rtol=0, atol=1e-5)
        obs = env.step(action)[0]
    with pytest.raises(UsageError, match="made with a function"):
        load(tmp_path / "run")
    again = load(tmp_path / "run", make_env=Walker)
    obs, _ = env.reset()
    np.testing.assert_allclose(again.policy(obs), Original(arrays).policy(obs), rtol=0, atol=1e-5)

    result = train(config, tmp_path / "run", make_env=Walker)
    assert result["finished"] and result["update"] == 3
    with pytest.raises(UsageError, match="holds a run already"):
        start_from_reference(*args, order=ORDER, make_env=Walker)


def test_weights_that_do_not_fit_are_refused_before_anything_is_written(tmp_path):
    arrays, config = weights(), config_like_the_original()
    standardised = config_like_the_original()
    standardised.vector.normalize = "velocity"
    with pytest.raises(UsageError, match="config.vector.normalize is 'velocity'; allowed .* ''"):
        start_from_reference(standardised, tmp_path / "run", arrays, make_env=Walker)
    with pytest.raises(UsageError, match="observes the vectors orientations, velocity; give"):
        start_from_reference(config, tmp_path / "run", arrays, make_env=Walker)
    arrays["wm/reward/out/out/bias"] = np.zeros(2, np.float32)
    del arrays["ac/critic/norm1/beta"]
    with pytest.raises(UsageError, match="in 2 arrays: critic/norm_1/norm/bias is missing"):
        start_from_reference(config, tmp_path / "run", arrays, order=ORDER, make_env=Walker)
    with pytest.raises(UsageError, match="observes the images left, right; allowed .*: one"):
        start_from_reference(config, tmp_path / "run", arrays, make_env=lambda seed: TwoEyes())
    (tmp_path / "text.npz").write_text("no arrays")
    with pytest.raises(UsageError, match="is not an .npz file"):
        start_from_reference(
            config, tmp_path / "run", tmp_path / "text.npz", order=ORDER, make_env=Walker
        )
    assert not (tmp_path / "run").exists()
