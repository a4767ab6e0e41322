"""What a call to a vector gives, and the error for environments that failed in it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np


@dataclass
class StepResult:
    """What N environments returned for one action each. The arrays are the caller's to keep."""

    obs: dict[str, np.ndarray]  # images [N, size, size, C] uint8, vectors [N, V] float32
    reward: np.ndarray  # [N] float32, raw
    is_last: np.ndarray  # [N] bool, terminal or truncated
    is_terminal: np.ndarray  # [N] bool
    failed: np.ndarray  # [N] bool, made no step and lost its episode; the rest is 0 and False then


class Fault(NamedTuple):
    """Something that ended an environment, or a worker with all its environments."""

    rows: tuple[int, ...]
    text: str  # the traceback, or what became of the worker


class EnvFault(RuntimeError):
    """Environments raised, hung or ended their process. All other rows were served.

    Attributes:
        faults: what happened, in the order of the rows.
        tracebacks: failed row -> text of its fault.
        result: what the call returns otherwise. In a failed row, the observation is the last good
            one, and everything else 0, False or None.
    """

    def __init__(self, faults: Iterable[Fault], result: Any) -> None:
        self.faults = sorted(faults)
        self.tracebacks = {row: fault.text for fault in self.faults for row in fault.rows}
        self.result = result
        super().__init__(f"environments {sorted(self.tracebacks)} failed:\n{self.faults[0].text}")


@dataclass
class Replies:
    """What the rows gave for one command."""

    values: list[Any]  # [N], None where there is none
    errors: dict[int, str]  # tracebacks by row
    lost: list[Fault]  # workers that are gone

    @property
    def faults(self) -> list[Fault]:
        """All that went wrong."""
        return [*self.lost, *(Fault((row,), text) for row, text in self.errors.items())]
