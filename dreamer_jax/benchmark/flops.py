"""FLOPs of one update of one member, counted by hand from the agent's sizes.

Only multiplications of matrices count, with 2 m n k for [m, k] @ [k, n]; docs/performance.md has
the derivation and what is left out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dreamer_jax.agent.agent import Agent
from dreamer_jax.behavior.dreamer import Dreamer
from dreamer_jax.errors import UsageError
from dreamer_jax.model.networks import (
    DECODER_KERNELS,
    ENCODER_KERNELS,
    IMAGE_SIZE,
    MLP,
    Decoder,
    Encoder,
)
from dreamer_jax.model.objectives import Reconstruction
from dreamer_jax.model.rssm import RSSM


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of a part of an update."""

    forward: int
    backward: int

    @property
    def total(self) -> int:
        return self.forward + self.backward

    def __add__(self, other: "Flops") -> "Flops":
        return Flops(self.forward + other.forward, self.backward + other.backward)


def matmul(m: int, n: int, k: int) -> int:
    """[m, k] @ [k, n]: a multiplication and an addition for each of m n k terms."""
    return 2 * m * n * k


def conv(side: int, kernel: int, stride: int, inputs: int, outputs: int) -> tuple[int, int]:
    """A VALID convolution of one image [side, side, inputs]. Returns: FLOPs, side of its output."""
    out = (side - kernel) // stride + 1
    return matmul(out**2, outputs, kernel**2 * inputs), out


def conv_transpose(
    side: int, kernel: int, stride: int, inputs: int, outputs: int
) -> tuple[int, int]:
    """A transposed convolution of one image. Returns: FLOPs, side of its output."""
    return matmul(side**2, kernel**2 * outputs, inputs), (side - 1) * stride + kernel


def learned(layers: Sequence[int], rows: int, *, input_grad: bool) -> Flops:
    """A stack of layers whose weights are learned, applied to `rows` rows.

    A layer's backward pass is two multiplications of the forward's size: the gradients of its
    weights and of its inputs. The first layer has the second only where what is in front of it
    is learned through it (`input_grad`).

    Args:
        layers: forward FLOPs of each layer per row.
    """
    forward = rows * sum(layers)
    return Flops(forward, 2 * forward - (0 if input_grad else rows * layers[0]))


def constant(layers: Sequence[int], rows: int, *, input_grad: bool) -> Flops:
    """A stack of layers whose weights are not learned: at most its inputs have gradients."""
    forward = rows * sum(layers)
    return Flops(forward, forward if input_grad else 0)


def mlp_layers(mlp: MLP, inputs: int) -> list[int]:
    """Forward FLOPs per row of each layer."""
    return _dense_layers(inputs, *[mlp.units] * mlp.layers, mlp.outputs)


def update_flops(agent: Agent, *, batch: int, length: int) -> dict[str, Flops]:
    """FLOPs of `train_step`, one member, by part.

    Args:
        batch: B; length: L.

    Raises:
        UsageError: the agent has other parts.

    Returns:
        `encoder`, `observe`, `decoder`, `heads` (reward and discount), `imagination` (rollout,
        its rewards, discounts and values of the slow critic), `actor` and `critic`.
    """
    kinds = [type(part) for part in (agent.wm.objective, *agent.behaviors)]
    if kinds != [Reconstruction, Dreamer]:
        raise UsageError(
            "FLOPs are counted for config.objective 'reconstruction', config.behavior 'dreamer', "
            "and config.expl.behavior 'task'"
        )
    rssm, wm, ac = agent.wm.rssm, agent.wm, agent.behaviors[0].ac
    rows, horizon = batch * length, ac.horizon
    feat = math.prod(rssm.latent.shape) + rssm.deter
    heads = [mlp_layers(head, feat) for head in (wm.reward, wm.discount) if head is not None]
    actor, critic = mlp_layers(ac.actor, feat), mlp_layers(ac.critic, feat)
    through = ac.actor_grad.through_dynamics
    policy = learned(actor, rows * horizon, input_grad=False)
    if not through:
        policy = Flops(policy.forward, 0)
    rollout = policy + constant(_prior_step(rssm), rows * horizon, input_grad=through)
    for head in (*heads, critic):
        rollout += constant(head, rows * (horizon + 1), input_grad=through)
    return {
        "encoder": _branches(_encoder_branches(agent), rows, input_grad=False),
        "observe": learned(_posterior_step(rssm), rows, input_grad=True),
        "decoder": _branches(_decoder_branches(wm.objective.decoder, feat), rows, input_grad=True),
        "heads": _branches(heads, rows, input_grad=True),
        "imagination": rollout,
        "actor": learned(actor, rows * (horizon - 1), input_grad=False),
        "critic": learned(critic, rows * horizon, input_grad=False),
    }


def _branches(branches: Sequence[Sequence[int]], rows: int, *, input_grad: bool) -> Flops:
    """Stacks side by side, on the same rows."""
    costs = (learned(layers, rows, input_grad=input_grad) for layers in branches)
    return sum(costs, Flops(0, 0))


def _dense_layers(*sizes: int) -> list[int]:
    return [matmul(1, n, k) for k, n in zip(sizes[:-1], sizes[1:], strict=True)]


def _prior_step(rssm: RSSM) -> list[int]:
    """img_in, GRU, and the prior's two layers."""
    stoch = math.prod(rssm.latent.shape)
    head = _dense_layers(rssm.deter, rssm.hidden, rssm.latent.stats_size)
    return [
        matmul(1, rssm.hidden, stoch + rssm.action_size),
        matmul(1, 3 * rssm.deter, rssm.hidden + rssm.deter),
        *head,
    ]


def _posterior_step(rssm: RSSM) -> list[int]:
    """A step with both heads: the posterior's reads the embedding beside the GRU's state."""
    head = _dense_layers(rssm.deter + rssm.embed_size, rssm.hidden, rssm.latent.stats_size)
    return [*_prior_step(rssm), *head]


def _encoder_branches(agent: Agent) -> list[list[int]]:
    encoder: Encoder = agent.wm.encoder
    last = {key: shape[-1] for key, (shape, _) in agent.obs_shapes.items()}
    branches = []
    if encoder.cnn_keys:
        layers, side = [], IMAGE_SIZE
        inputs = sum(last[key] for key in encoder.cnn_keys)
        for i, kernel in enumerate(ENCODER_KERNELS):
            outputs = encoder.depth * 2**i
            flops, side = conv(side, kernel, 2, inputs, outputs)
            layers.append(flops)
            inputs = outputs
        branches.append(layers)
    if encoder.mlp_keys:
        vectors = sum(last[key] for key in encoder.mlp_keys)
        branches.append(_dense_layers(vectors, *[encoder.mlp_units] * encoder.mlp_layers))
    return branches


def _decoder_branches(decoder: Decoder, feat: int) -> list[list[int]]:
    branches = []
    if decoder.image_channels:
        inputs, side = 32 * decoder.depth, 1
        layers = _dense_layers(feat, inputs)
        depths = [decoder.depth * scale for scale in (4, 2, 1)]
        for kernel, outputs in zip(
            DECODER_KERNELS, (*depths, sum(decoder.image_channels.values())), strict=True
        ):
            flops, side = conv_transpose(side, kernel, 2, inputs, outputs)
            layers.append(flops)
            inputs = outputs
        branches.append(layers)
    if decoder.vector_sizes:
        units = [decoder.mlp_units] * decoder.mlp_layers
        branches.append(_dense_layers(feat, *units, sum(decoder.vector_sizes.values())))
    return branches
