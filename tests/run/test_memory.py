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


@pytest.mark.timeout(1200)
def test_a_cue_is_remembered_by_the_recurrent_state(tmp_path):
    config = get_config("cue", "3")
    config.steps, config.eval_every = 4_000, 0
    result = train(config, tmp_path / "run")
    assert [member["eval_return"] for member in result["members"]] == [1.0, 1.0]
    for member in range(2):
        agent = load(tmp_path / "run", member=member)
        assert mean_return(agent, 20, forget=False) == 1.0
        # The same choice for both cues: right in about half of the episodes.
        assert abs(mean_return(agent, 200, forget=True)) < 0.35
