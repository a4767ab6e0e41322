"""What was seen once is remembered, and by the recurrent state."""

import pytest

from dreamer_jax import load, train
from dreamer_jax.configs import get_config

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("as_shipped")]


def mean_return(agent, episodes, forget):
    """Return the mean return; an agent that forgets begins anew at every observation."""
    env = agent.make_env(0)
    total = 0.0
    for _ in range(episodes):
        obs, _ = env.reset()
        agent.reset()
        ended = False
        while not ended:
            if forget:
                agent.reset()
            obs, reward, terminated, truncated, _ = env.step(agent.policy(obs))
            total += reward
            ended = terminated or truncated
    env.close()
    return total / episodes


@pytest.mark.timeout(600)
def test_a_cue_is_remembered_by_the_recurrent_state(tmp_path):
    config = get_config("cue", "3")
    config.steps, config.eval_every = 2_500, 0
    result = train(config, tmp_path / "run")
    assert all(member["eval_return"] >= 0.9 for member in result["members"])
    for member in range(2):
        agent = load(tmp_path / "run", member=member)
        assert mean_return(agent, 50, forget=False) >= 0.9
        # The choice without the cue is right in half of the episodes; 0.35 is five standard errors.
        assert abs(mean_return(agent, 200, forget=True)) < 0.35
