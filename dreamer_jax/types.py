"""Records that every room shares, and the legend of axis letters.

M members (seeds x hyperparameters), E environments per member, B batch, T time, H imagination
horizon, N = B*T imagination starts, A action, D deterministic state, Z latent variables,
K classes per latent variable, S flattened latent, F feature (S + D), X embedding, O outputs.
Time-major arrays are written [T, B, ...], batch-major ones [B, T, ...].
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
from flax import struct

Array = jax.Array
Params = Mapping[str, "Params | Array"]
Metrics = dict[str, Array]
LatentStats = dict[str, Array]  # parameters of a latent distribution (model/latents.py)


class ActionSpec(NamedTuple):
    """A normalised action space: an index from 0, one index per factor, or a vector in [-1, 1].

    Inside the agent an action is [A]: one-hot, the one-hot vectors of all factors in a row, or the
    vector.
    """

    discrete: bool
    size: int  # A, number of actions, of all factors' choices together, or of dimensions
    factors: tuple[int, ...] = ()  # choices of each factor [F], if there is not just one index

    @classmethod
    def of(cls, space: Any) -> "ActionSpec":
        """Return the spec of a gymnasium space that `envs.adapt` made."""
        if hasattr(space, "nvec"):
            factors = tuple(int(n) for n in space.nvec)
            return cls(True, sum(factors), factors)
        discrete = hasattr(space, "n")
        return cls(discrete, int(space.n if discrete else space.shape[0]))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an action outside the agent: () for an index, (F,) for factors, or (A,)."""
        if self.discrete:
            return (len(self.factors),) if self.factors else ()
        return (self.size,)

    @property
    def dtype(self) -> str:
        """Data type of an action outside the agent."""
        return "int32" if self.discrete else "float32"

    def none(self, leading: tuple[int, ...]) -> np.ndarray:
        """Return what is recorded as the action at an episode's first step, to which none led."""
        return np.full((*leading, *self.shape), -1 if self.discrete else 0, self.dtype)

    def random(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Return `count` uniformly random actions."""
        if self.discrete:
            choices = self.factors or self.size
            return rng.integers(choices, size=(count, *self.shape), dtype=np.int32)
        return rng.uniform(-1, 1, (count, self.size)).astype(np.float32)


@struct.dataclass
class MetricVector(Mapping):
    """Metrics in one array: one kernel selects them, and one copy brings them to the host."""

    array: Array  # [M, number of names] float32
    names: tuple[str, ...] = struct.field(pytree_node=False)

    def __getitem__(self, name: str) -> Array:
        """Return a metric [M] by its name."""
        if name not in self.names:
            raise KeyError(name)
        return self.array[..., self.names.index(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@struct.dataclass
class RSSMState:
    """Recurrent state of the world model."""

    deter: Array  # [..., D] float32, GRU state h
    stoch: Array  # [..., Z, K] one-hot, or [..., Z] Gaussian; sampled latent z


@struct.dataclass
class Batch:
    """Sequences from the replay. `action[t]` and `reward[t]` led to `obs[t]`.

    obs      x0        x1        x2
    action   -    a0 ->     a1 ->       stored as action[0] = 0, action[1] = a0, ...
    reward   0         r1        r2
    """

    obs: dict[str, Array]  # images [B, T, 64, 64, C] uint8, grids bool, vectors [B, T, V]
    action: Array  # [B, T] or [B, T, F] integer index (-1: none), or [B, T, A] float32
    reward: Array  # [B, T] float32, raw
    is_first: Array  # [B, T] bool, first step of an episode or of a sequence
    is_last: Array  # [B, T] bool, terminal or cut by a time limit
    is_terminal: Array  # [B, T] bool, the environment ended: no value after it


@struct.dataclass
class Trajectory:
    """An imagined rollout; entry 0 is the start state, where `action` is zero."""

    state: RSSMState  # [H+1, N, ...]
    feat: Array  # [H+1, N, F]
    action: Array  # [H+1, N, A]; action[t] led to state[t]


@struct.dataclass
class PolicyCarry:
    """State of a policy between two environment steps."""

    state: RSSMState  # [E, ...]
    action: Array  # [E, A], the last action
    key: Array  # typed PRNG key, split at every step


@struct.dataclass
class Hypers:
    """Hyperparameters that may differ between members: traced scalars, never code.

    `actor_entropy` and `actor_grad_mix` move linearly to `*_final` within `anneal_updates` updates
    (Hafner et al. 2021, Appendix D, the schedules variant).
    """

    model_lr: Array | float  # learning rates of the three optimizers
    actor_lr: Array | float
    critic_lr: Array | float
    kl_scale: Array | float  # beta, weight of the KL loss
    kl_balance: Array | float  # alpha in [0, 1], share of the gradient that trains the prior
    free_nats: Array | float  # nats below which the KL has no gradient
    actor_entropy: Array | float  # eta, weight of the entropy bonus
    actor_entropy_final: Array | float
    actor_grad_mix: Array | float  # rho in [0, 1], share of dynamics backpropagation in `both`
    actor_grad_mix_final: Array | float
    anneal_updates: Array | float  # updates
    discount: Array | float  # gamma in [0, 1]
    lambda_: Array | float  # lambda in [0, 1] of the lambda-return


STATS = "stats"  # the entry of `TrainState.params` with the statistics of standardised vectors


@struct.dataclass
class TrainState:
    """One member's learning state; stacked over members every leaf has a leading axis M."""

    # One entry per group, `model` and the behaviours', and STATS if vectors are standardised.
    params: Mapping[str, Params]
    slow_critic: Params  # empty without a critic
    opt_states: Mapping[str, optax.OptState]  # one entry per group
    hypers: Hypers
    key: Array  # typed PRNG key, split at every update
    update: Array  # int32, updates made, skipped ones included
    skipped: Array  # int32, updates skipped because a loss or gradient was non-finite
    nonfinite: Array  # int32, consecutive skipped updates


@struct.dataclass
class Update:
    """Outcome of one update of a parameter group; all scalars.

    The agent logs `loss` and `grad_norm` as `<group>_loss` and `<group>_grad_norm`, and skips an
    update in which one of them is non-finite.
    """

    loss: Array
    grad_norm: Array  # global norm before the clip
    metrics: Metrics  # anything else to log, by its full name
