"""The interface of behaviours, and their registries: one for the task, one for exploration.

A behaviour chooses actions, and may learn to from imagined experience. A new one is a subclass of
`Behavior` and a registered function that makes it; docs/extending.md has an example.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import optax

from dreamer_jax.behavior.actor_critic import ActorCritic
from dreamer_jax.model.distributions import SampleFn
from dreamer_jax.model.networks import MLP
from dreamer_jax.model.world_model import WorldModel
from dreamer_jax.schema import Registry
from dreamer_jax.types import (
    ActionSpec,
    Array,
    Params,
    RSSMState,
    TrainState,
    Trajectory,
    Update,
)

Optimizers = Mapping[str, optax.GradientTransformationExtraArgs]  # by group


class PosteriorBatch(NamedTuple):
    """A replayed batch and the world model's posterior states of it, without gradients."""

    states: RSSMState  # [B, T, ...] posterior
    action: Array  # [B, T, A]; action[t] led to states[t]
    is_first: Array  # [B, T] bool
    is_terminal: Array  # [B, T] bool

    def starts(self) -> tuple[RSSMState, Array]:
        """Return the states [N, ...] that imagination starts from, and is_terminal [N]."""
        states = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), self.states)
        return states, self.is_terminal.reshape(-1)


class Behavior:
    """A way to choose actions, and to learn this inside the world model.

    The defaults are those of a behaviour that learns nothing: only `act` must be defined.
    """

    groups: tuple[str, ...] = ()  # names of its parameter groups

    def init(self, keys: Sequence[Array], feat: Array) -> dict[str, Params]:
        """Return initial parameters by group, from one key per group and a feature [1, F]."""
        return {}

    def act(
        self, wm: WorldModel, params: Params, state: RSSMState, key: Array, *, sample: SampleFn
    ) -> Array:
        """Return actions [E, A], one-hot (per factor, if there are several) or in [-1, 1].

        Args:
            params: parameters by group; `model` is the world model's.
            state: [E, ...], the states of the environments.
            sample: takes an action from its distribution: a sample or the mode.
        """
        raise NotImplementedError

    def learn(
        self,
        wm: WorldModel,
        optimizers: Optimizers,
        state: TrainState,
        replayed: PosteriorBatch,
        key: Array,
        *,
        sample: SampleFn,
    ) -> tuple[TrainState, dict[str, Update]]:
        """Update every group once; return the new state, and an `Update` by group.

        Args:
            state: of the member; the world model has already been updated.
            replayed: the batch that the world model was updated on.
        """
        return state, {}

    def value(self, wm: WorldModel, params: Params, state: RSSMState) -> Array | None:
        """Return the critic's values [E] of states [E, ...]; None without a critic.

        A value is the return, in transformed rewards, from the reward for reaching the state.
        """
        return None

    def imagine(
        self, wm: WorldModel, params: Params, start: RSSMState, key: Array, steps: int
    ) -> Trajectory | None:
        """Return a trajectory of the learned policy from states [N, ...]; None without one."""
        return None


class Parts(NamedTuple):
    """Everything that a behaviour may be made of, for one config and environment."""

    action: ActionSpec
    latent_size: int  # S
    make_mlp: Callable[[int, int, int], MLP]  # hidden layers, units, outputs -> network
    make_actor_critic: Callable[[], ActorCritic]


# Functions (parts, **values of the config keys registered with it) -> behaviour.
BEHAVIORS: Registry[Callable[..., Behavior]] = Registry()  # for the task
EXPLORERS: Registry[Callable[..., Behavior]] = Registry()  # act in its place during training
