"""Every agent of the family trains, resumes and acts: tiny runs on a probe environment."""

import pytest
from conftest import make_tiny_config
from probe_env import Probe

from dreamer_jax import evaluate, load, train

HEAD = {"layers": 1, "units": 8}
SMALL = dict.fromkeys(("vector", "reward_head", "discount_head", "actor", "critic"), HEAD)
GAUSSIAN = {"latent": "gaussian", "std_act": "softplus", "gru_norm": False}
FAMILY = {
    "dreamer_v1": {
        "rssm": GAUSSIAN, "kl_loss": "plain", "cnn_act": "relu", "slow_critic_every": 1,
        "actor": {**HEAD, "dist": "tanh_normal"}, "actor_grad": "dynamics", "train_updates": 2,
        "expl": {"noise": "normal"},
    },
    "contrastive": {"objective": "contrastive", "actor_grad": "dynamics"},
    "reward_only": {"objective": "reward_only", "returns": "reward_sum", "actor_grad": "both"},
    "planet": {
        "behavior": "planet",
        "planet": {"horizon": 3, "iterations": 2, "candidates": 10, "elites": 3},
    },
    "plan2explore": {"expl": {"behavior": "plan2explore", "models": 2, "until": 90, **HEAD}},
}  # fmt: skip

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", FAMILY)
def test_an_agent_trains_resumes_and_acts(name, tmp_path):
    def make_env(seed):
        return Probe()

    config = make_tiny_config(**SMALL | FAMILY[name], steps=80, eval_episodes=1)
    config.checkpoint_every = 40
    train(config, tmp_path / "run", make_env)
    config.steps = 120
    result = train(config, tmp_path / "run", make_env)
    assert result["finished"]
    assert result["update"] == 1 + (120 - 40) // 8 * config.train_updates
    assert evaluate(tmp_path / "run", episodes=1, make_env=make_env)["env_step"] == 120
    agent = load(tmp_path / "run", make_env=make_env)
    env = agent.make_env()
    obs, _ = env.reset()
    for sample in (False, True):
        assert agent.action_space.contains(agent.policy(obs, sample=sample))
