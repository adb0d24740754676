"""How the integer weights of each layer lie in a file: their type there, and their bytes.

    W (int8) -> DQ -> Conv                    8 bits each
    W (int4) -> Cast(int8) -> DQ -> Conv      4 bits each: packed, see pack_weights
    W (int4) -> DQ -> MatMul                  4 bits each: in blocks, see block_int4

Pure: the graph is only read. The bytes are those of the codes, without their scales.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import onnx_graphsurgeon as gs
from onnx import TensorProto, helper

from passes.pack_weights import packed_size

BITS = {"INT8": 8, "UINT8": 8, "INT4": 4, "UINT4": 4, "INT2": 2, "UINT2": 2}


@dataclass(frozen=True)
class Stored:
    """Constant integer weights of one layer. ``container``: their type in the file, such as INT4; size: in bytes."""

    layer: str
    container: str
    elements: int
    size: int


def stored_weights(graph: gs.Graph) -> list[Stored]:
    """Every layer with integer weights in order of the graph; what two layers share is listed for both."""
    found = []
    for node in graph.nodes:
        for tensor in node.inputs:
            codes = _codes(tensor)
            if codes is None:
                continue
            kind = codes.dtype if isinstance(codes.dtype, int) else helper.np_dtype_to_tensor_dtype(codes.dtype)
            container, elements = TensorProto.DataType.Name(kind), math.prod(codes.shape)
            if container in BITS and len(codes.shape) >= 2:
                found.append(Stored(node.name, container, elements, packed_size(elements, BITS[container])))
    return found


def _codes(tensor: gs.Tensor) -> gs.Constant | None:
    """The constant integers that a tensor is dequantized from, seen through a Cast; None for other tensors."""
    if not tensor.inputs or tensor.inputs[0].op != "DequantizeLinear":
        return None
    codes = tensor.inputs[0].inputs[0]
    if codes.inputs and codes.inputs[0].op == "Cast":
        codes = codes.inputs[0].inputs[0]
    return codes if isinstance(codes, gs.Constant) else None
