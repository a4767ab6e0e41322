"""Cue, a task of vectors that only memory solves."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.envs.registry import EnvSettings, limit_and_repeat, register_task
from dreamer_jax.envs.wrappers import Reset, Step
from dreamer_jax.errors import UsageError

CUES = 2


class Cue(gymnasium.Env):
    """Repeat a cue that was shown a number of steps ago.

    The first observation shows one of two cues at random, the following ones show nothing, and the
    last one asks for a choice. The action that answers it is rewarded with +1 if it is the number
    of the cue and with -1 if not, and ends the episode as terminal; actions before it have no
    effect. The best possible return is 1. Whoever does not remember the cue gets 0 on average.

        step          0      1   ...  delay-1   delay
        observation   cue    0   ...  0         "choose"
        reward               0   ...  0         0         +1 or -1

    Observation: float32 [3], the cue as a one-hot vector of two, and 1 where a choice is due.

    Args:
        delay: steps from the cue to the choice, at least 1.
    """

    exact_state = True  # `get_state` and `set_state` need no trial

    def __init__(self, delay: int) -> None:
        self.observation_space = spaces.Box(0.0, 1.0, (CUES + 1,), np.float32)
        self.action_space = spaces.Discrete(CUES)
        self._delay = delay
        self._step, self._cue = delay + 1, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Reset:
        super().reset(seed=seed)
        self._step, self._cue = 0, int(self.np_random.integers(CUES))
        return self._observation(), {}

    def step(self, action: int) -> Step:
        if self._step > self._delay:
            raise ValueError("the episode is over: call reset() first")
        self._step += 1
        terminated = self._step > self._delay
        reward = (1.0 if int(action) == self._cue else -1.0) if terminated else 0.0
        return self._observation(), reward, terminated, False, {}

    def get_state(self) -> dict[str, Any]:
        """Return everything that the future depends on, as a picklable dictionary."""
        rng = self.np_random.bit_generator.state
        return {"step": self._step, "cue": self._cue, "rng": rng}

    def set_state(self, state: dict[str, Any]) -> None:
        """Resume exactly from a state that `get_state` returned."""
        self._step, self._cue = state["step"], state["cue"]
        self.np_random.bit_generator.state = state["rng"]

    def _observation(self) -> np.ndarray:
        observation = np.zeros(CUES + 1, np.float32)
        observation[self._cue] = self._step == 0
        observation[CUES] = self._step == self._delay
        return observation


@register_task("cue")
def make_cue(variant: str, seed: int, settings: EnvSettings) -> gymnasium.Env:
    if not (variant.isdecimal() and int(variant)):
        raise UsageError(
            f"task 'cue:{variant}' names no delay; allowed: a whole number of steps of at least 1, "
            "as in 'cue:20'"
        )
    return limit_and_repeat(Cue(int(variant)), settings)
