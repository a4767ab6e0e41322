"""What every behaviour is to the agent: parameters, actions, and what it learns from a batch."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import jax
import optax

from dreamer_jax.model.distributions import SampleFn
from dreamer_jax.model.world_model import WorldModel
from dreamer_jax.types import Array, Params, RSSMState, TrainState, Update

Optimizers = Mapping[str, optax.GradientTransformationExtraArgs]  # by group


class PosteriorBatch(NamedTuple):
    """A batch as the world model filtered it; no gradient."""

    states: RSSMState  # [B, T, ...] posterior
    action: Array  # [B, T, A]; action[t] led to states[t]
    is_first: Array  # [B, T] bool
    is_terminal: Array  # [B, T] bool

    def starts(self) -> tuple[RSSMState, Array]:
        """Where imagination begins: states [N, ...] and is_terminal [N], N = B*T."""
        states = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), self.states)
        return states, self.is_terminal.reshape(-1)


class Behavior(Protocol):
    """How actions are chosen, and how that is learned inside the world model."""

    @property
    def groups(self) -> tuple[str, ...]:
        """Names of its parameter groups."""

    def init(self, keys: Sequence[Array], feat: Array, action: Array) -> dict[str, Params]:
        """Initial parameters by group.

        Args:
            keys: one per group; feat: [1, F]; action: [1, A].
        """

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
            params: by group, the world model's among them; state: [E, ...]; sample: how an action
                is taken from its distribution.

        Returns:
            [E, A], one-hot or in [-1, 1].
        """

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
        """Update its groups. Returns: the new state, and one `Update` for each group."""
