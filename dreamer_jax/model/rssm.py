"""The recurrent state-space model (Hafner et al. 2021, Eq. 1; Hafner et al. 2019).

The scans compute only what is recurrent: the embedding's share of the posterior's first layer is
one matmul over all steps before the scan, and the prior's head runs over all steps after it.
"""

from collections.abc import Callable, Sequence
from functools import partial

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from dreamer_jax.model.distributions import SampleFn
from dreamer_jax.model.latents import Latent, flatten_stoch
from dreamer_jax.model.networks import Dense, LayerNorm32
from dreamer_jax.model.ops.convolutions import add_bias
from dreamer_jax.model.ops.recurrence import multiply, scan, scan_steps
from dreamer_jax.types import Array, LatentStats, Params, RSSMState


class ConcatDense(nn.Module):
    """A dense layer on a concatenation that can multiply each input by its part of the kernel."""

    sizes: Sequence[int]  # sizes of the inputs, in the order of the concatenation
    units: int
    dtype: jnp.dtype

    def setup(self):
        shape = (sum(self.sizes), self.units)
        self.kernel = self.param("kernel", nn.initializers.glorot_uniform(), shape)
        self.bias = self.param("bias", nn.initializers.zeros, (self.units,))

    def part(self, index: int, inputs: Array) -> Array:
        """Return the share of input number `index`, without bias: [..., size] -> [..., units]."""
        return multiply(self, inputs.astype(self.dtype), self.kernel, sum(self.sizes[:index]))

    def add_bias(self, product: Array) -> Array:
        """Add the bias to the sum of all shares [..., units]."""
        return add_bias(product, self.bias)

    def __call__(self, *inputs: Array) -> Array:
        joined = jnp.concatenate([x.astype(self.dtype) for x in inputs], -1)
        return self.add_bias(multiply(self, joined, self.kernel))


class GRU(nn.Module):
    """A GRU with one layer norm over all gates: [..., I], [..., D] -> [..., D] float32.

    r, c, u = split(norm(W [x, h] + b)); c = tanh(sigmoid(r) * c); u = sigmoid(u - 1);
    h' = u * c + (1 - u) * h.
    """

    units: int
    norm: bool
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, inputs: Array, state: Array) -> Array:
        sizes = inputs.shape[-1], state.shape[-1]
        gates = ConcatDense(sizes, 3 * self.units, self.dtype, name="dense")(inputs, state)
        if self.norm:
            gates = LayerNorm32(jnp.float32, name="norm")(gates)
        reset, candidate, update = jnp.split(gates.astype(jnp.float32), 3, -1)
        candidate = jnp.tanh(nn.sigmoid(reset) * candidate)
        update = nn.sigmoid(update - 1)
        return update * candidate + (1 - update) * state


class RSSM(nn.Module):
    """The networks of one step (Eq. 1); the functions below run them over time.

    deter[t] = GRU(act(W [stoch[t-1], action[t]]), deter[t-1])
    prior(t) = head(act(W deter[t])),  posterior(t) = head(act(W [deter[t], embed[t]]))

    Methods are called as `rssm.apply({"params": params}, ..., method="obs_step")`.
    """

    latent: Latent
    deter: int
    hidden: int
    action_size: int
    embed_size: int
    act: Callable[[Array], Array]
    norm: bool  # layer norm in the hidden layers
    gru_norm: bool
    dtype: jnp.dtype
    unroll: int = 1  # most steps in one iteration of the loops over time

    def setup(self):
        stoch = self.latent.stats_size if len(self.latent.shape) == 2 else self.latent.shape[0]
        self.img_in = ConcatDense((stoch, self.action_size), self.hidden, self.dtype)
        self.gru = GRU(self.deter, self.gru_norm, self.dtype)
        self.prior_in = Dense(self.hidden, self.dtype)
        self.prior_out = Dense(self.latent.stats_size, self.dtype)
        self.posterior_in = ConcatDense((self.deter, self.embed_size), self.hidden, self.dtype)
        self.posterior_out = ConcatDense((self.hidden,), self.latent.stats_size, self.dtype)
        norm = partial(LayerNorm32, self.dtype) if self.norm else lambda: lambda hidden: hidden
        self.img_norm, self.prior_norm, self.posterior_norm = norm(), norm(), norm()

    def initial(self, shape: tuple[int, ...]) -> RSSMState:
        """Return the zero state: deter [*shape, D], stoch [*shape, *latent.shape]."""
        return RSSMState(jnp.zeros((*shape, self.deter)), jnp.zeros((*shape, *self.latent.shape)))

    def step_deter(self, state: RSSMState, action: Array) -> Array:
        """Return the next deter [..., D] of state [...] and the action [..., A] that leaves it."""
        hidden = self.img_norm(self.img_in(flatten_stoch(self.latent, state.stoch), action))
        return self.gru(self.act(hidden), state.deter)

    def prior(self, deter: Array) -> LatentStats:
        """Return the parameters of p(z | h) for deter [..., D]."""
        hidden = self.prior_norm(self.prior_in(deter.astype(self.dtype)))
        return self.latent.stats(self.prior_out(self.act(hidden)))

    def project_embed(self, embed: Array) -> Array:
        """Return the share of embeddings [..., X] in the posterior's first layer, [..., hidden]."""
        return self.posterior_in.part(1, embed)

    def posterior(self, deter: Array, projected: Array) -> LatentStats:
        """Return the parameters of q(z | h, x) for deter [..., D] and a `project_embed` result."""
        hidden = self.posterior_in.add_bias(self.posterior_in.part(0, deter) + projected)
        hidden = self.act(self.posterior_norm(hidden))
        return self.latent.stats(self.posterior_out(hidden))

    def obs_step(
        self,
        state: RSSMState,
        action: Array,
        projected: Array,
        is_first: Array,
        noise: Array,
        *,
        sample: SampleFn,
    ) -> tuple[RSSMState, LatentStats]:
        """Take one step of the posterior (Eq. 1, representation model).

        Args:
            state: previous state [...].
            action: [..., A], led to this observation.
            projected: [..., hidden], the embedding's part from `project_embed`.
            is_first: [...] bool, where state and action are reset.
            noise: for one latent sample per state, from `Latent.noise`.
            sample: sampling rule of the latent.

        Returns:
            The new state [...], and the parameters of its posterior.
        """
        state, action = reset_where(is_first, state, action)
        deter = self.step_deter(state, action)
        posterior = self.posterior(deter, projected)
        return RSSMState(deter, sample(self.latent.dist(posterior), noise)), posterior

    def init_all(self, action: Array, embed: Array) -> tuple[LatentStats, LatentStats]:
        """Call every layer, on action [..., A] and embed [..., X]: the method to `init` with."""
        deter = self.step_deter(self.initial(action.shape[:-1]), action)
        return self.prior(deter), self.posterior(deter, self.project_embed(embed))


def feature(latent: Latent, state: RSSMState) -> Array:
    """Return the input of heads, actor and critic: [flattened stoch, deter], [..., F]."""
    return jnp.concatenate([flatten_stoch(latent, state.stoch), state.deter], -1)


def reset_where(is_first: Array, state: RSSMState, action: Array) -> tuple[RSSMState, Array]:
    """Zero the state and the previous action where `is_first` [...] bool marks a new episode."""

    def zero(x: Array) -> Array:
        first = is_first.reshape(*is_first.shape, *(1,) * (x.ndim - is_first.ndim))
        return jnp.where(first, 0, x)

    return jax.tree.map(zero, state), zero(action)


def img_step(
    rssm: RSSM, params: Params, state: RSSMState, action: Array, noise: Array, *, sample: SampleFn
) -> tuple[RSSMState, LatentStats]:
    """Take one step of the prior (Eq. 1, transition predictor).

    Args:
        state: [...].
        action: [..., A], leaves the state.
        noise: for one latent sample per state.
        sample: sampling rule of the latent.

    Returns:
        The next state [...], and the parameters of its prior.
    """
    variables = {"params": params}
    deter = rssm.apply(variables, state, action, method="step_deter")
    prior = rssm.apply(variables, deter, method="prior")
    return RSSMState(deter, sample(rssm.latent.dist(prior), noise)), prior


def observe(
    rssm: RSSM,
    params: Params,
    embed: Array,
    action: Array,
    is_first: Array,
    noise: Array,
    start: RSSMState,
    *,
    sample: SampleFn,
) -> tuple[RSSMState, LatentStats, LatentStats]:
    """Filter sequences of observations by the posterior.

        embed     x0      x1      x2
        action    a0      a1      a2        a[t] led to x[t]; a0 leaves `start`
        state   start->s0 -> s1 -> s2

    Args:
        embed: [B, T, X].
        action: [B, T, A].
        is_first: [B, T] bool, where a new episode starts from the zero state.
        noise: for the latent samples, [T, B, ...].
        start: state before the first step, [B, ...].
        sample: sampling rule of the latents.

    Returns:
        States [B, T, ...], and the parameters [B, T, ...] of their posteriors and of their priors.
    """
    chex.assert_rank([embed, action, is_first], [3, 3, 2])
    chex.assert_equal_shape_prefix([embed, action, is_first], 2)
    variables = {"params": params}
    projected = rssm.apply(variables, embed, method="project_embed")

    inputs = jax.tree.map(_swap, (action, projected, is_first))
    apply = partial(rssm.apply, sample=sample, method="obs_step")
    states, posterior = scan_steps(apply, params, start, (*inputs, noise), unroll=rssm.unroll)
    states, posterior = jax.tree.map(_swap, (states, posterior))
    return states, posterior, rssm.apply(variables, states.deter, method="prior")


def open_loop(
    rssm: RSSM,
    params: Params,
    action: Array,
    is_first: Array,
    noise: Array,
    start: RSSMState,
    *,
    sample: SampleFn,
) -> tuple[RSSMState, LatentStats]:
    """Predict states from actions alone, by the prior; arguments are those of `observe`.

    Returns:
        States [B, T, ...], and the parameters of their priors [B, T, ...].
    """
    chex.assert_rank([action, is_first], [3, 2])

    def step(state, inputs):
        action, first, noise = inputs
        state, action = reset_where(first, state, action)
        state, prior = img_step(rssm, params, state, action, noise, sample=sample)
        return state, (state, prior)

    inputs = _swap(action), _swap(is_first), noise
    _, outputs = scan(step, start, inputs, unroll=rssm.unroll)
    return jax.tree.map(_swap, outputs)


def _swap(x: Array) -> Array:
    return jnp.swapaxes(x, 0, 1)
