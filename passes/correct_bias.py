"""Give a layer's output back the mean that quantization took from it.

y = W x + b,  ^y = ^W ^x + b,        b' = b + E[y] - E[^y]         (Nagel et al. 2019, section 4.2)

x -> Conv(W) -> y        becomes        x -> Conv(W, b') -> y
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs


def bias_of(layer: gs.Node) -> tuple[gs.Node, int] | None:
    """The node and input position that hold a layer's bias, existing or not; None when there is no place for one.

    Conv, ConvTranspose and Gemm have a third input. A MatMul has a bias if all that reads it is an Add of a constant.
    """
    if layer.op in ("Conv", "ConvTranspose", "Gemm"):
        return (layer, 2) if len(layer.inputs) < 3 or isinstance(layer.inputs[2], gs.Constant) else None
    readers = layer.outputs[0].outputs
    if layer.op == "MatMul" and len(readers) == 1 and readers[0].op == "Add":
        for position, tensor in enumerate(readers[0].inputs):
            if isinstance(tensor, gs.Constant):
                return readers[0], position
    return None


def shift_bias(layer: gs.Node, shift: np.ndarray) -> None:
    """Add ``shift`` [C] to the bias of a layer, which is made if it has none. Raises ValueError without a place."""
    place = bias_of(layer)
    if place is None:
        raise ValueError(f"{layer.name} has no place for a bias")
    node, position = place
    if position == len(node.inputs):
        node.inputs.append(gs.Constant(f"{layer.outputs[0].name}_bias", shift.astype(np.float32)))
        return
    held = node.inputs[position]
    weight = node.attrs.get("beta", 1.0) if node.op == "Gemm" else 1.0
    # Channels are the last axis of whatever a bias may be: a vector, one number for all, or a value for each row.
    held.values = (held.values + shift / weight).astype(np.float32)
