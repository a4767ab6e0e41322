"""A vector that outlives its environments: what fails is replaced, up to a limit."""

import base64
import functools
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence

import gymnasium
import numpy as np
from gymnasium import spaces

from dreamer_jax.envs.vector.results import EnvFault, StepResult
from dreamer_jax.envs.vector.vector import make_vector

OnFault = Callable[[int, str], None]  # given the row and the text of a fault
HOUR = 3600.0  # seconds


class FaultTolerantVector:
    """A vector whose failing environments are replaced, so that a run goes on without them.

    A row can also fail outside `step`, when its worker ends while it resets or rebuilds another
    row, or is asked for states. It is then left out of the next `step`, which reports it in
    `failed` as any other. An environment that fails whenever it is built or reset is tried until
    `on_fault` raises.

    Args:
        make_env: (row, generation) -> the row's environment, which should draw other random
            numbers in another generation. Generation 0 is the first; one that cannot be built
            is an error here. Sent to workers by cloudpickle.
        num_envs: N.
        workers: 0 for this process, where an environment that hangs or ends the process cannot
            be survived, else the number of processes, at most N.
        timeout: seconds that one call may take in the workers, see `ProcessVector`.
        on_fault: called with the row and the traceback of each fault, in row order, before the
            row is replaced. EnvSlots that share a worker that hung or died are one fault, of the
            first of them. What it raises ends the call.

    Raises:
        ValueError: no environments, their spaces differ, or `workers` or `timeout` is out of
            range. Also from every call that replaces, where the new environment's spaces differ.
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
        self._generations = np.zeros(num_envs, np.int64)
        self._lost = np.zeros(num_envs, bool)  # failed and replaced, which no one was told yet
        env_fns = [functools.partial(make_env, row, 0) for row in range(num_envs)]
        self._vector = make_vector(env_fns, workers, timeout)

    @property
    def num_envs(self) -> int:
        """N."""
        return self._vector.num_envs

    @property
    def observation_space(self) -> spaces.Dict:
        """One environment's, a Dict of Box."""
        return self._vector.observation_space

    @property
    def action_space(self) -> spaces.Discrete | spaces.Box:
        """One environment's, Discrete from 0 or a Box in [-1, 1]."""
        return self._vector.action_space

    @property
    def generations(self) -> np.ndarray:
        """How often each row's environment was replaced, int64 [N]."""
        return self._generations.copy()

    def reset(self, mask: Sequence[bool] | np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Begin a new episode in some rows, in new environments where old ones fail.

        Args:
            mask: [N] bool, the rows to reset; None for all.

        Returns:
            The observation of every row, [N, ...].
        """
        mask = self._vector.row_mask(mask)
        while mask.any():
            self._lost &= ~mask
            try:
                self._vector.reset(mask)
            except EnvFault as fault:
                self._recover(fault)
            mask &= self._lost
        return self._vector.observations()

    def step(self, actions: np.ndarray) -> StepResult:
        """Step every row.

        Args:
            actions: integers [N] for a Discrete action space, float32 [N, A] for a Box.

        Returns:
            The step; rows in its `failed` lost their episode, have a new environment and must be
            reset, as those in `is_last`.

        Raises:
            ValueError: wrong actions, or a row that must be reset first.
        """
        lost = self._lost.copy()
        try:
            result = self._vector.step(actions, ~lost)
        except EnvFault as fault:
            result = fault.result
            self._recover(fault)
        result.failed |= lost
        self._lost &= ~result.failed
        return result

    def observations(self) -> dict[str, np.ndarray]:
        """The last observation of every row, [N, ...]."""
        return self._vector.observations()

    def state(self) -> list[dict]:
        """Return N records for `restore`, one per row, as JSON data.

        Each holds `environment`, base64 or None where there is no exact state (see
        `Vector.get_states`), and `generation`.
        """
        try:
            states = self._vector.get_states()
        except EnvFault as fault:
            states = fault.result
            self._recover(fault)
        return [
            {
                "environment": state and base64.b64encode(state).decode(),
                "generation": int(generation),
            }
            for state, generation in zip(states, self._generations, strict=True)
        ]

    def restore(self, rows: Sequence[Mapping]) -> np.ndarray:
        """Resume from the N records that `state` returned.

        Args:
            rows: one record per row.

        Returns:
            bool [N], the rows that were restored. The others have environments of the next
            generation, so that they do not repeat the random numbers of the run's start, and
            must be reset.

        Raises:
            ValueError: there are not N records, or a generation is below 0.
        """
        if len(rows) != self.num_envs:
            raise ValueError(f"{len(rows)} saved environments; this vector has {self.num_envs}")
        generations = [row["generation"] for row in rows]
        if min(generations) < 0:
            raise ValueError(f"generations must be at least 0, not {generations}")
        states = [row["environment"] and base64.b64decode(row["environment"]) for row in rows]
        self._generations[:] = generations
        self._lost[:] = False
        try:
            restored = self._vector.set_states(states)
        except EnvFault as fault:
            restored = fault.result
            self._recover(fault)
        restored &= ~self._lost
        self._recover(self._replace(np.flatnonzero(~restored & ~self._lost)))
        restored &= ~self._lost
        self._lost[:] = False
        return restored

    def close(self) -> None:
        """Close the environments; a second call does nothing."""
        self._vector.close()

    def _recover(self, fault: EnvFault | None) -> None:
        """Report what failed and replace it, until that works."""
        while fault is not None:
            rows = sorted(fault.tracebacks)
            self._lost[rows] = True
            for event in fault.faults:
                self._on_fault(event.rows[0], event.text)
            fault = self._replace(rows)

    def _replace(self, rows: Sequence[int]) -> EnvFault | None:
        self._generations[rows] += 1
        try:
            self._vector.replace(
                {
                    int(row): functools.partial(self._make_env, int(row), int(generation))
                    for row, generation in zip(rows, self._generations[rows], strict=True)
                }
            )
        except EnvFault as fault:
            return fault
        return None


class TooManyFaults(RuntimeError):
    """Environments fail so often that something must be wrong with all of them."""


class FaultLimit:
    """An `on_fault` that lets a run go on until too many environments fail.

    Args:
        per_hour: faults that may happen within an hour; at least 0.
        log: called with the row and the traceback of each.
        clock: seconds that only grow.

    Raises:
        ValueError: `per_hour` is out of range.
    """

    def __init__(
        self,
        per_hour: int,
        log: OnFault,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if per_hour < 0:
            raise ValueError(f"per_hour must be at least 0, not {per_hour}")
        self._per_hour, self._log, self._clock = per_hour, log, clock
        self._times: deque[float] = deque()  # of the faults within the last hour

    def __call__(self, row: int, text: str) -> None:
        """Count a fault. Raises TooManyFaults where it is one too many."""
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
