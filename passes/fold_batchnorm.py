"""Fold BatchNormalization into the layer before it, and keep what it knew about its output.

    y = gamma * (W x + b - mu) / sigma + beta,   sigma = sqrt(var + eps)
      = (gamma / sigma) W x + (gamma / sigma) (b - mu) + beta

    x -> Conv(W, b) -> BatchNormalization -> y      becomes      x -> Conv(W', b') -> y

The same holds for ConvTranspose, Gemm and MatMul (with or without an Add of a constant after it). Training left in
beta and gamma the mean and the standard deviation of y, channel by channel: they are the only statistics of the data
that a model carries, and they are recorded on y, also for a normalization that cannot be folded.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import Pass, PassResult, Skip

FOLDABLE = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add")


@dataclass(frozen=True)
class ChannelStats:
    """Mean and standard deviation of each channel of a tensor, both of shape [C]."""

    mean: np.ndarray
    std: np.ndarray


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold what can be folded.

    statistics: receives, by the name of a normalization's output, its ChannelStats. gains: receives, if it was folded,
    the factor [C] by which the weights before it were multiplied.
    """

    name: ClassVar[str] = "fold-batchnorm"
    statistics: MutableMapping[str, ChannelStats] = field(default_factory=dict)
    gains: MutableMapping[str, np.ndarray] = field(default_factory=dict)

    def __call__(self, graph: gs.Graph) -> PassResult:
        changed = 0
        skips = []
        outputs = {tensor.name for tensor in graph.outputs}
        for norm in [node for node in graph.nodes if node.op == "BatchNormalization"]:
            if constant_statistics(norm):
                gamma, beta = (norm.inputs[k].values.astype(np.float64) for k in (1, 2))
                self.statistics[norm.outputs[0].name] = ChannelStats(beta, np.abs(gamma))
            reason = why_not(norm, outputs)
            if reason:
                skips.append(Skip(norm.name, self.name, reason))
                continue
            read, written = norm.inputs[0].name, norm.outputs[0].name
            self.gains[written] = self.gains.get(read, 1.0) * _fold(norm)
            changed += 1
        graph.cleanup().toposort()
        return PassResult(changed, tuple(skips))


def constant_statistics(norm: gs.Node) -> bool:
    """Whether gamma, beta, mean and variance are known, so that they can be used."""
    return all(isinstance(tensor, gs.Constant) for tensor in norm.inputs[1:5])


def why_not(norm: gs.Node, outputs: set[str]) -> str:
    """Why a normalization stays a node; empty when it can be folded. ``outputs``: names of the graph's outputs."""
    if norm.attrs.get("training_mode", 0) or len(norm.outputs) > 1:
        return "the normalization is in training mode"
    if not constant_statistics(norm):
        return "its statistics are not constant"
    source = norm.inputs[0]
    if not source.inputs:
        return "it normalizes an input of the model"
    layer = source.inputs[0]
    if layer.op not in FOLDABLE:
        return f"it follows {layer.op}, which has no weights"
    if len(source.outputs) > 1 or source.name in outputs:
        return f"the output of {layer.name} is used elsewhere too"
    if layer.op == "Add":
        found = _biased_product(layer)
        if found is None:
            return f"it follows {layer.name}, an Add that is no bias"
        product, bias = found
        if len(layer.inputs[1 - bias].outputs) > 1 or layer.inputs[1 - bias].name in outputs:
            return f"the output of {product.name} is used elsewhere too"
        layer = product
    weight = layer.inputs[1]
    if not isinstance(weight, gs.Constant):
        return f"the weights of {layer.name} are not constant"
    if layer.op == "MatMul" and weight.values.ndim != 2:
        return f"the weights of {layer.name} are not a matrix"
    if layer.op != "MatMul" and len(layer.inputs) > 2 and not isinstance(layer.inputs[2], gs.Constant):
        return f"the bias of {layer.name} is not constant"
    if layer.op == "MatMul" and len(norm.outputs[0].shape or ()) != 2:  # BatchNormalization's channels: axis 1
        return f"the channels of {layer.name} may not be its last axis"
    return ""


def _biased_product(add: gs.Node) -> tuple[gs.Node, int] | None:
    """The MatMul that an Add gives its bias to, and the position of that bias."""
    for position in (0, 1):
        other = add.inputs[1 - position]
        bias = add.inputs[position]
        # one number for each channel, or one for all
        plain = isinstance(bias, gs.Constant) and bias.values.size == (bias.values.shape or (1,))[-1]
        if plain and other.inputs and other.inputs[0].op == "MatMul":
            return other.inputs[0], position
    return None


def _fold(norm: gs.Node) -> np.ndarray:
    """Fold one normalization; returns gamma / sigma [C]."""
    gamma, beta, mean, variance = (tensor.values.astype(np.float64) for tensor in norm.inputs[1:5])
    factor = gamma / np.sqrt(variance + norm.attrs.get("epsilon", 1e-5))
    shift = beta - mean * factor
    layer = norm.inputs[0].inputs[0]
    last = layer
    if layer.op == "Add":
        product, position = _biased_product(layer) or (layer, 0)
        bias = layer.inputs[position]
        values = np.broadcast_to(bias.values.astype(np.float64).reshape(-1), factor.shape) * factor + shift
        bias.values = values.astype(bias.values.dtype)
        layer = product
    weight = layer.inputs[1]
    dtype = weight.values.dtype
    weight.values = _scaled(layer, weight.values.astype(np.float64), factor).astype(dtype)
    if last.op == "MatMul":  # nowhere to put the shift: Gemm has the place
        layer.op, last = "Gemm", layer
    if last.op in ("Conv", "ConvTranspose", "Gemm"):
        held = layer.inputs[2].values.astype(np.float64) if len(layer.inputs) > 2 else np.zeros(())
        # Gemm adds beta * C, of any shape that broadcasts to [N, C]
        held = held * (layer.attrs.pop("beta", 1.0) if layer.op == "Gemm" else 1.0)
        bias = gs.Constant(f"{weight.name}_folded_bias", (held * factor + shift).astype(dtype))
        layer.inputs = [*layer.inputs[:2], bias]
    last.outputs = [norm.outputs[0]]
    norm.outputs.clear()
    norm.inputs.clear()
    return factor


def _scaled(layer: gs.Node, weight: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """The weights with output channel j multiplied by factor[j]."""
    if layer.op == "Conv":
        return weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
    if layer.op == "ConvTranspose":  # [I, O / groups, ...], output channels counted group by group
        groups = layer.attrs.get("group", 1)
        split = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
        scaled = split * factor.reshape(groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
        return scaled.reshape(weight.shape)
    if layer.op == "Gemm" and layer.attrs.get("transB", 0):
        return weight * factor[:, None]
    return weight * factor
