"""DF-MPC: a layer of few bits, and the layers that read it scaled channel by channel to make up for what it lost.

W: float weights of the layer, ^W rounded; b, ^b: their biases. What reads channel j gets c_j times its output, with the
c_j that minimizes what is left of the difference,

    |W_j - c ^W_j|^2 + lambda1 (b_j - c ^b_j)^2 + lambda2 (1 - c)^2

    c_j = (<W_j, ^W_j> + lambda1 b_j ^b_j + lambda2) / (|^W_j|^2 + lambda1 ^b_j^2 + lambda2)

This bounds the error behind a Relu too, as c Relu(y) = Relu(c y) where c >= 0. c_j is 1 whenever the scale of ^W_j is
that of least squares; it has work to do where channels share a scale.

    x -> Conv(W, 2 bits) -> Relu -> Conv(V)       becomes       x -> Conv(^W) -> Relu -> Conv(V c, 6 bits)

Chen et al., Data-Free Quantization via Mixed-Precision Compensation without Fine-Tuning, 2023. The form is derived
anew; ternary weights and lambda1 = 0.5 are what is known of the published settings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import Pass, PassResult, Skip
from passes.channel_paths import norm_of
from passes.correct_bias import bias_of
from passes.layer_kernels import as_stored, groups_of, kernels_of
from passes.pairing import Pair
from passes.plan import SMALLEST_SCALE
from passes.ternary import ternary
from passes.weight_quantizer import weight_quantizer

RULE = "dfmpc"
LIMITS = (0.05, 5.0)  # beyond them c is an accident of a channel that is nearly empty


def coefficients(
    cross: np.ndarray, energy: np.ndarray, bias: np.ndarray, rounded_bias: np.ndarray,
    lambda1: float = 0.5, lambda2: float = 0.0,
) -> np.ndarray:  # fmt: skip
    """c of every channel [O]. cross: <W_j, ^W_j>, energy: |^W_j|^2, in whatever inner product.

    1 where the channel is empty, and where c would be negative, which would drop the channel behind a Relu.
    """
    above = cross + lambda1 * bias * rounded_bias + lambda2
    below = energy + lambda1 * rounded_bias**2 + lambda2
    found = np.divide(above, below, out=np.ones_like(below), where=(below > 0) & (above > 0))
    return np.clip(found, *LIMITS)


def scaled_inputs(layer: gs.Node, kernels: np.ndarray, factors: np.ndarray) -> np.ndarray:
    """Kernels [O, I / groups, K] with what they read from input channel i multiplied by factors[i]: [I]."""
    groups = groups_of(layer)
    split = kernels.reshape(groups, -1, *kernels.shape[1:])
    return (split * factors.reshape(groups, 1, -1, 1)).reshape(kernels.shape)


@dataclass(frozen=True)
class NewWeights:
    """Weights [O, I / groups, K], and the scale of each output channel [O]; None where they stay in float."""

    kernels: np.ndarray
    scale: np.ndarray | None


@dataclass(frozen=True)
class DFMPCDecision:
    """weights: by layer, of both members of the pairs. coefficients: c [O] by low layer. notes: by low layer, how it
    was rounded. skips: low layers that this is not done to."""

    weights: dict[str, NewWeights] = field(default_factory=dict)
    coefficients: dict[str, np.ndarray] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    skips: list[Skip] = field(default_factory=list)


def decide_dfmpc(
    graph: gs.Graph,
    pairs: Sequence[Pair],
    bits: Mapping[str, int],
    gains: Mapping[str, np.ndarray],
    lambda1: float = 0.5,
) -> DFMPCDecision:
    """Both members of every pair as published: the low one ternary at 2 bits, on a uniform grid above.

    graph: canonical, in float, BatchNormalization folded. bits: by layer; a high layer without stays in float. gains:
    by the name of a layer's output, the factor of each channel [O] that folding multiplied into its weights, for the
    published scales are those of a whole layer before normalization. Where it is unknown, each channel gets a scale of
    its own. Weights that have been equalized since are no longer the published ones either.
    """
    layers = {node.name: node for node in graph.nodes}
    decision = DFMPCDecision()
    factors: dict[str, np.ndarray] = {}  # of the input channels of the high layers
    for pair in pairs:
        low = layers[pair.low]
        reason = why_no_coefficient(low)
        if reason:
            decision.skips.append(Skip(pair.low, RULE, reason))
            continue
        kernels, gain, bias = kernels_of(low).astype(np.float64), gains.get(low.outputs[0].name), bias_values(low)
        rounded, scale = _few_bits(kernels, bits[pair.low], gain)
        cross, energy = (kernels * rounded).sum((1, 2)), np.square(rounded).sum((1, 2))
        found = coefficients(cross, energy, bias, bias, lambda1)
        decision.weights[pair.low] = NewWeights(rounded.astype(np.float32), scale)
        decision.coefficients[pair.low] = found
        shared = "one for the layer" if gain is not None else "by channel, as its normalization was folded before"
        decision.notes[pair.low] = f"{bits[pair.low]} bits, scale {shared}; {(energy == 0).sum()} empty channels"
        for reader in pair.path.readers:
            high = layers[reader.layer]
            inputs = factors.setdefault(reader.layer, np.ones(groups_of(high) * kernels_of(high).shape[1]))
            inputs[reader.offset : reader.offset + found.size] = found
    for name, inputs in factors.items():
        kernels = scaled_inputs(layers[name], kernels_of(layers[name]).astype(np.float64), inputs)
        decision.weights[name] = NewWeights(
            kernels.astype(np.float32), _largest(kernels, bits[name]) if name in bits else None
        )
    return decision


def why_no_coefficient(low: gs.Node) -> str:
    """Why no factor can stand for what a layer lost; empty when it can."""
    if norm_of(low):
        return "the BatchNormalization after it is not folded"
    return "" if bias_values(low).size in (1, len(kernels_of(low))) else "its bias differs from row to row"


def bias_values(layer: gs.Node) -> np.ndarray:
    """What the constant bias of a layer adds to its channels, [O] or [1]; zero without one."""
    node, position = bias_of(layer) or (layer, len(layer.inputs))
    if position == len(node.inputs):
        return np.zeros(1)
    weight = node.attrs.get("beta", 1.0) if node.op == "Gemm" else 1.0
    return weight * node.inputs[position].values.reshape(-1).astype(np.float64)


def _few_bits(kernels: np.ndarray, bits: int, gain: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Rounded kernels and scales [O]: ternary for 2 bits, from the largest weight for more."""
    factor = np.ones(len(kernels)) if gain is None else np.where(gain == 0, 1, gain)
    plain = kernels / factor[:, None, None]
    if bits == 2:
        codes, scale = ternary(plain, per_channel=gain is None)
    else:
        scale = _largest(plain, bits)
        scale = scale if gain is None else np.full_like(scale, scale.max())
        codes = np.rint(plain / scale[:, None, None])
    return codes * (scale * factor)[:, None, None], np.maximum(scale * np.abs(factor), SMALLEST_SCALE)


def _largest(kernels: np.ndarray, bits: int) -> np.ndarray:
    """Symmetric scales [O] that reach the largest weight of each channel."""
    return np.maximum(np.abs(kernels).max((1, 2)) / (2 ** (bits - 1) - 1), SMALLEST_SCALE)


@dataclass(frozen=True)
class DFMPC(Pass):
    """Put the weights of a decision behind the quantizers that InsertQDQ made."""

    name: ClassVar[str] = RULE
    decision: DFMPCDecision

    def __call__(self, graph: gs.Graph) -> PassResult:
        skips = []
        layers = {node.name: node for node in graph.nodes if node.name in self.decision.weights}
        for name, layer in layers.items():
            new = self.decision.weights[name]
            if new.scale is None:
                weights = layer.inputs[1]
                weights.values = as_stored(layer, new.kernels, weights.values.shape).astype(weights.values.dtype)
                continue
            quantizer = weight_quantizer(layer)
            if isinstance(quantizer, str):
                skips.append(Skip(name, self.name, quantizer))
            else:
                quantizer.set(as_stored(layer, new.kernels, quantizer.weights.values.shape), new.scale)
        return PassResult(len(layers) - len(skips), tuple(skips))
