"""Take Q and DQ out of a graph again: the float model that a quantized one stands for.

    x -> Q -> DQ -> Conv <- DQ <- codes         becomes         x -> Conv <- W      W = (codes - zero_point) * scale

Weights keep the values that their codes have, so that quantizing again on the same grid gives the same codes. Packed
codes may pass a Cast on their way to the DQ. A Clip that InsertQDQ put before a Q goes with it, or is the Relu again
that it was; one that was a Clip before keeps the bounds of the quantizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import Pass, PassResult, Skip


@dataclass(frozen=True)
class RemoveQDQ(Pass):
    """Make every dequantized constant a float constant, and readers of a Q -> DQ pair read what went into it."""

    name: ClassVar[str] = "remove-qdq"

    def __call__(self, graph: gs.Graph) -> PassResult:
        changed, skips = 0, []
        taken = set(graph.tensors())
        outputs = {id(tensor): position for position, tensor in enumerate(graph.outputs)}
        for node in [each for each in graph.nodes if each.op == "DequantizeLinear"]:
            real, plain = node.outputs[0], all(isinstance(tensor, gs.Constant) for tensor in node.inputs[1:])
            codes = constant_codes(node.inputs[0]) if plain else None
            if codes is not None:
                node.outputs.clear()
                real.to_constant(dequantized(codes, node))
                real.name = _plain(real.name, taken)
            elif node.inputs[0].inputs and node.inputs[0].inputs[0].op == "QuantizeLinear":
                source = _unclipped(node.inputs[0].inputs[0].inputs[0])
                if id(real) in outputs and (id(source) in outputs or not source.inputs):  # both keep their names
                    node.op, node.inputs, node.attrs = "Identity", [source], {}
                else:
                    _bypass(graph, node, source, outputs)
            else:
                skips.append(Skip(node.name, self.name, "it reads integers that something else than a quantizer wrote"))
                continue
            changed += 1
        graph.cleanup().toposort()
        return PassResult(changed, tuple(skips))


def _bypass(graph: gs.Graph, node: gs.Node, source: gs.Tensor, outputs: dict[int, int]) -> None:
    """Let everybody read ``source`` instead of what ``node`` writes; an output of the model gives it its name."""
    real = node.outputs[0]
    node.outputs.clear()
    for reader in list(real.outputs):
        reader.inputs = [source if tensor is real else tensor for tensor in reader.inputs]
    if id(real) in outputs:
        source.name, real.name = real.name, f"{real.name}_dequantized"
        outputs[id(source)] = outputs[id(real)]
        graph.outputs[outputs[id(real)]] = source


def _unclipped(tensor: gs.Tensor) -> gs.Tensor:
    """What InsertQDQ clipped before it was quantized, a Relu again where it made a Clip of one; else the tensor."""
    writer = tensor.inputs[0] if tensor.inputs else None
    if writer is None or writer.op != "Clip":
        return tensor
    base = tensor.name.removesuffix("_clipped")
    if (writer.name, tensor.name) == (f"{base}_Clip", f"{base}_clipped"):
        return writer.inputs[0]
    names = [bound.name for bound in writer.inputs[1:]]
    if len(names) == 2 and names[0].endswith("_relu_low") and names[1].endswith("_relu_high"):
        writer.op, writer.inputs = "Relu", writer.inputs[:1]
    return tensor


def _plain(name: str, taken: set[str]) -> str:
    """The name that the weights had before InsertQDQ, where it is free."""
    base = name.removesuffix("_dequantized")
    return name if base in taken else base


def constant_codes(tensor: gs.Tensor) -> np.ndarray | None:
    """The integers of a constant, or of one behind a Cast; None for what is computed."""
    if tensor.inputs and tensor.inputs[0].op == "Cast":
        tensor = tensor.inputs[0].inputs[0]
    return np.asarray(tensor.values) if isinstance(tensor, gs.Constant) else None


def dequantized(codes: np.ndarray, node: gs.Node) -> np.ndarray:
    """What a DequantizeLinear makes of constant codes, in float32."""
    scale = np.asarray(node.inputs[1].values, np.float32)
    zero = np.asarray(node.inputs[2].values, np.float32) if len(node.inputs) > 2 else np.zeros_like(scale)
    block, axis = node.attrs.get("block_size", 0), node.attrs.get("axis", 1)
    if block:
        scale, zero = (np.repeat(each, block, axis)[tuple(map(slice, codes.shape))] for each in (scale, zero))
    elif scale.ndim:
        shape = [1] * codes.ndim
        shape[axis if scale.size > 1 else 0] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    return (codes.astype(np.float32) - zero) * scale
