"""The weights of every kind of layer in one order: [O, I / groups, K], K the taps of a kernel, 1 for a matrix.

    Conv            [O, I / groups, k..]      reshape
    ConvTranspose   [I, O / groups, k..]      output channels to the front, group by group
    Gemm, transB    [O, I]                    as it is
    Gemm, MatMul    [I, O]                    transposed

Output channel o belongs to group o // (O / groups) and reads input channels (I / groups) * group and onward.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs


def groups_of(layer: gs.Node) -> int:
    """In how many groups the channels of a layer are; 1 for matrices."""
    return int(layer.attrs.get("group", 1)) if layer.op in ("Conv", "ConvTranspose") else 1


def kernels_of(layer: gs.Node, values: np.ndarray | None = None) -> np.ndarray:
    """The weights of ``layer``, or ``values`` stored as they are, as [O, I / groups, K]."""
    values = layer.inputs[1].values if values is None else values
    if layer.op == "Conv":
        return values.reshape(*values.shape[:2], -1)
    if layer.op == "ConvTranspose":
        groups = groups_of(layer)
        split = values.reshape(groups, values.shape[0] // groups, values.shape[1], -1)
        return split.transpose(0, 2, 1, 3).reshape(groups * values.shape[1], values.shape[0] // groups, -1)
    return (values if layer.attrs.get("transB", 0) else values.T)[:, :, None]


def as_stored(layer: gs.Node, kernels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of ``kernels_of``: [O, I / groups, K] in the order and ``shape`` that the layer stores."""
    if layer.op == "Conv":
        return kernels.reshape(shape)
    if layer.op == "ConvTranspose":
        groups = groups_of(layer)
        split = kernels.reshape(groups, shape[1], shape[0] // groups, -1)
        return split.transpose(0, 2, 1, 3).reshape(shape)
    return np.ascontiguousarray(kernels[:, :, 0] if layer.attrs.get("transB", 0) else kernels[:, :, 0].T)
