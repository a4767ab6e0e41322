"""The interface of behaviours, and the registries of those for the task and for exploration.

A behaviour chooses actions, and may learn how to from imagined experience. A new one is a subclass
of `Behavior` with a factory that registers it; docs/extending.md has an example.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jax
import optax

from dreamer_jax.behavior.actor_critic import ActorCritic
from dreamer_jax.model.distributions import SampleFn
from dreamer_jax.model.networks import MLP
from dreamer_jax.model.world_model import WorldModel
from dreamer_jax.schema import Registry
from dreamer_jax.types import ActionSpec, Array, Params, RSSMState, TrainState, Update

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
    """A way to choose actions, and to learn that inside the world model.

    The defaults are those of a behaviour that learns nothing: only `act` must be defined.

    Attributes:
        groups: names of its parameter groups.
    """

    groups: tuple[str, ...] = ()

    def init(self, keys: Sequence[Array], feat: Array) -> dict[str, Params]:
        """Return the initial parameters by group.

        Args:
            keys: one per group.
            feat: [1, F], any feature.
        """
        return {}

    def act(
        self,
        wm: WorldModel,
        params: Mapping[str, Params],
        state: RSSMState,
        key: Array,
        *,
        sample: SampleFn,
    ) -> Array:
        """Choose actions.

        Args:
            wm: the world model.
            params: by group, with the world model's as `model`.
            state: [E, ...], of the environments.
            key: for random numbers.
            sample: takes an action from its distribution: a sample, or the mode.

        Returns:
            [E, A], one-hot or in [-1, 1].
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
        """Update the groups once.

        Args:
            wm: the world model.
            optimizers: by group, see `optimizer.step_group`.
            state: of the member, with the world model already updated.
            replayed: the batch that the world model was updated on.
            key: for random numbers.
            sample: takes a sample from a distribution.

        Returns:
            The new state, and an `Update` of each group.
        """
        return state, {}


@dataclass(frozen=True)
class Parts:
    """What behaviours are made of, for the agent's config and environment."""

    action: ActionSpec
    latent_size: int  # S
    make_mlp: Callable[[int, int, int], MLP]  # hidden layers, units, outputs -> network
    make_actor_critic: Callable[[], ActorCritic]


# Factories (parts, **values of the keys that were registered with it) -> behaviour.
MakeBehavior = Callable[..., Behavior]
BEHAVIORS: Registry[MakeBehavior] = Registry()  # act on the task
EXPLORERS: Registry[MakeBehavior] = Registry()  # collect experience in the place of these
