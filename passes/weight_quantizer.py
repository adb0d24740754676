"""The weights of a layer once InsertQDQ has run: float values behind a quantizer, and the scale that it has.

W -> Q(scale, zero_point) -> DQ(scale, zero_point) -> layer
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class WeightQuantizer:
    """weights: as the layer stores them. scale: one for each output channel. axis: of the output channels."""

    weights: gs.Constant
    scale: gs.Constant
    axis: int

    def column(self, values: np.ndarray) -> np.ndarray:
        """[O], in the shape that is broadcast over the weights."""
        return values.reshape([-1 if axis == self.axis else 1 for axis in range(self.weights.values.ndim)])

    def set(self, weights: np.ndarray, scale: np.ndarray) -> None:
        """Float weights of the same shape, and scales [O], of both Q and DQ."""
        self.weights.values = weights.astype(np.float32)
        self.scale.values = scale.astype(np.float32)


def weight_quantizer(layer: gs.Node) -> WeightQuantizer | str:
    """Where the weights of a layer are, or why nothing can be told to each of its channels."""
    node = layer
    for op, position in (("DequantizeLinear", 1), ("QuantizeLinear", 0)):
        source = node.inputs[position]
        if not source.inputs or source.inputs[0].op != op:
            return "its weights are not quantized"
        node = source.inputs[0]
    weights, scale = node.inputs[:2]
    if not isinstance(weights, gs.Constant) or not isinstance(scale, gs.Constant):
        return "its weights are not constant"
    axis = node.attrs.get("axis", 1)
    if scale.values.ndim != 1 or (layer.attrs.get("group", 1) > 1 and layer.op == "ConvTranspose"):
        return "its channels share a scale"
    return WeightQuantizer(weights, scale, axis)
