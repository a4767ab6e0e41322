"""A vector that outlives its environments: those that fail are replaced, up to a limit."""

import base64
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.envs.vector.process import ProcessVector
from dreamer_jax.envs.vector.vector import (
    ActionSpace,
    Fault,
    LocalVector,
    Mask,
    StepResult,
    Vector,
    rows_of,
)

OnFault = Callable[[int, str], None]  # called with the row and the text of a fault
HOUR = 3600.0  # seconds


class FaultTolerantVector:
    """A vector that replaces failing environments, so that a run continues without them.

    A row can also fail outside `step`, when its worker ends while it resets or rebuilds another
    row or is asked for states. The next `step` then leaves that row out and reports it in `failed`
    like any other. An environment that fails whenever it is built or reset is rebuilt until
    `on_fault` raises.

    Args:
        make_env: (row, generation) -> the row's environment, which should draw different random
            numbers in each generation. Generation 0 is the first, and an error while it is built is
            raised here. Sent to workers by cloudpickle.
        num_envs: N.
        workers: number of processes, at most N; 0 for this process, in which an environment that
            hangs or ends the process takes the run down.
        timeout: see `ProcessVector`.
        on_fault: called with the row and the traceback of each fault, in row order, before the
            row is replaced. Rows that lose their common worker are one fault, of the first of
            them. An exception raised here ends the call.

    Raises:
        ValueError: see `LocalVector` and `ProcessVector`. Every call that replaces an environment
            raises it if spaces differ.
    """

    def __init__(
        self,
        make_env: Callable[[int, int], gymnasium.Env],
        num_envs: int,
        *,
        workers: int = 0,
        timeout: float = 60.0,
        on_fault: OnFault,
    ) -> None:
        self._make_env, self._on_fault = make_env, on_fault
        self.generations = np.zeros(num_envs, np.int64)  # replacements of each row's environment
        self._lost = np.zeros(num_envs, bool)  # failed and replaced, but not yet reported
        env_fns = [partial(make_env, row, 0) for row in range(num_envs)]
        self._vector: Vector = (
            ProcessVector(env_fns, workers, timeout) if workers else LocalVector(env_fns)
        )
        # As in `Vector`:
        self.num_envs: int = num_envs
        self.observation_space: spaces.Dict = self._vector.observation_space
        self.action_space: ActionSpace = self._vector.action_space

    def renew(self, make_env: Callable[[int, int], gymnasium.Env]) -> None:
        """Replace every environment by the first generation that another maker builds."""
        self._make_env = make_env
        self.generations[:] = -1
        self._lost[:] = False
        self._recover(self._replace(np.arange(self.num_envs)))

    def reset(self, mask: Mask | None = None) -> dict[str, np.ndarray]:
        """Begin a new episode in the rows of a mask, or in all, and return all observations.

        Environments that fail are replaced until that succeeds.
        """
        mask = self._vector.row_mask(mask)
        while mask.any():
            self._lost &= ~mask
            self._recover(self._vector.reset(mask))
            mask &= self._lost
        return self.observations()

    def step(self, actions: np.ndarray, mask: Mask | None = None) -> StepResult:
        """Step the rows of a mask, or all.

        Args:
            actions: see `Vector.step`, which may raise.

        Returns:
            The results. Rows in `failed` lost their episode and have a new environment; like those
            in `is_last`, they must be reset.
        """
        mask = self._vector.row_mask(mask)
        lost = self._lost & mask
        result, faults = self._vector.step(actions, mask & ~lost)
        self._recover(faults)
        result.failed |= lost
        self._lost &= ~result.failed
        return result

    def observations(self) -> dict[str, np.ndarray]:
        """Return the last observation of every row, see `Vector.observations`."""
        return self._vector.observations()

    def state(self) -> list[dict]:
        """Return N JSON records for `restore`, one per row.

        Each holds `environment`, in base64, or None as in `Vector.get_states`, and `generation`.
        """
        states, faults = self._vector.get_states()
        self._recover(faults)
        # A new environment that waits to be reported and reset has no episode to resume.
        states = [None if lost else state for state, lost in zip(states, self._lost, strict=True)]
        return [
            {"environment": state and base64.b64encode(state).decode(), "generation": generation}
            for state, generation in zip(states, self.generations.tolist(), strict=True)
        ]

    def restore(self, rows: Sequence[Mapping]) -> np.ndarray:
        """Resume from the records that `state` returned.

        Returns:
            bool [N], the rows that were restored. The others have environments of the next
            generation, so that they do not repeat the random numbers of the run's start, and
            must be reset.
        """
        if len(rows) != self.num_envs:
            raise ValueError(f"{len(rows)} saved environments; this vector has {self.num_envs}")
        generations = [row["generation"] for row in rows]
        if min(generations) < 0:
            raise ValueError(f"generations must be at least 0, not {generations}")
        states = [row["environment"] and base64.b64decode(row["environment"]) for row in rows]
        self.generations[:] = generations
        self._lost[:] = False
        restored, faults = self._vector.set_states(states)
        self._recover(faults)
        restored &= ~self._lost
        self._recover(self._replace(np.flatnonzero(~restored & ~self._lost)))
        restored &= ~self._lost
        self._lost[:] = False
        return restored

    def close(self) -> None:
        """Close the environments; a second call does nothing."""
        self._vector.close()

    def _recover(self, faults: Sequence[Fault]) -> None:
        """Report faults and replace their rows, until that succeeds."""
        while faults:
            rows = rows_of(faults)
            self._lost[rows] = True
            for fault in faults:
                self._on_fault(fault.rows[0], fault.text)
            faults = self._replace(rows)

    def _replace(self, rows: Sequence[int]) -> list[Fault]:
        self.generations[rows] += 1
        generations = self.generations.tolist()
        return self._vector.replace(
            {row: partial(self._make_env, row, generations[row]) for row in map(int, rows)}
        )


class TooManyFaults(RuntimeError):
    """Environments fail so often that something must be wrong with all of them."""


class FaultLimit:
    """An `on_fault` that raises once too many environments have failed.

    Args:
        per_hour: number of faults that may happen within an hour; at least 0.
        log: called with the row and the traceback of each fault.
        clock: returns monotonic seconds.
    """

    def __init__(
        self, per_hour: int, log: OnFault, clock: Callable[[], float] = time.monotonic
    ) -> None:
        if per_hour < 0:
            raise ValueError(f"per_hour must be at least 0, not {per_hour}")
        self._per_hour, self._log, self._clock = per_hour, log, clock
        self._times: deque[float] = deque()  # of the faults within the last hour

    def __call__(self, row: int, text: str) -> None:
        """Count a fault, and raise TooManyFaults if the last hour had more than `per_hour`."""
        self._log(row, text)
        now = self._clock()
        self._times.append(now)
        while self._times[0] < now - HOUR:
            self._times.popleft()
        if len(self._times) > self._per_hour:
            raise TooManyFaults(
                f"environments failed {len(self._times)} times within an hour; allowed: "
                f"{self._per_hour}. The last was environment {row}:\n{text}"
            )
