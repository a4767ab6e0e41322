r"""Four runs made to fail, beside runs that learn, to compare their diagnostics.

Command:   python experiments/sweep.py --config=experiments/failures.py --workdir=runs/failures \
               --launcher=local --at_once=2
           python experiments/report.py --runs=runs/failures --out=report
What:      configs/catch.py with one seed and half of the steps; then with a learning rate, a KL
           weight and an entropy bonus that make it fail; then on a task whose reward is never seen.
Results:   docs/diagnosing.md
"""

from collections.abc import Callable
from typing import Any

import gymnasium

from dreamer_jax.configs import catch
from dreamer_jax.envs import EnvSettings, limit_and_repeat, register_task
from dreamer_jax.envs.catch import Catch

RIGHT = 2


class Needle(Catch):
    """Catch that rewards a single play, which random actions find once in 54,675 episodes.

    Ball and paddle must both start in the first column, and all seven actions must be to the right;
    the reward is then 1, and 0 in all other cases.
    """

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        image, info = super().reset(seed=seed, options=options)
        self._on_course = self._ball == self._paddle == 0
        return image, info

    def step(self, action: int):
        self._on_course &= int(action) == RIGHT
        image, _, terminated, truncated, info = super().step(action)
        return image, float(terminated and self._on_course), terminated, truncated, info

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "on_course": self._on_course}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._on_course = state["on_course"]


@register_task("needle")
def make_needle(variant: str, seed: int, settings: EnvSettings) -> gymnasium.Env:
    return limit_and_repeat(Needle(), settings)


def get_config(arg: str = ""):
    """Return the config of the run that learns.

    Args:
        arg: '' or 'debug'.
    """
    config = catch.get_config(arg)
    config.seeds = 1
    if not arg:
        config.update({"steps": 6_000, "log_every": 250, "eval_every": 1_000, "video_every": 2_000})
    return config


def sweep(add: Callable[..., None], arg: str) -> None:
    """Add the run that learns and those that fail."""
    add()
    add(model_lr=0.1)
    add(kl_scale=100.0)
    add(actor_entropy=0.0)  # learns all the same, since the task is easy
    add(actor_lr=1e-2)  # learns too
    add(actor_lr=1e-2, actor_entropy=0.0)
    add(task="needle")
