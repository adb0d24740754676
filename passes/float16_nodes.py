"""Which nodes may compute in float16, and with which of their inputs and outputs. Pure: the graph is only read.

The standard says of every input and output which types it takes, and which of them have to be of the same type:

    Resize (X: T1, roi: T2, scales: float) -> Y: T1        X and Y in float16, scales in float32
    NonMaxSuppression (boxes: float, ...) -> int64         stays as it is
    Range (start: T, limit: T, delta: T) -> T              stays as it is: T may not be float16
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
from onnx import TensorProto, defs, helper, shape_inference
from onnx.defs import OpSchema

from passes.opset import weightless

HALF, SINGLE = np.dtype(np.float16), np.dtype(np.float32)
MEASURES = ("Shape", "Size")
POSITIONS_ABOUT_SPACE = {"Resize": (1, 2)}  # region and scales: runtimes want both in float32
TYPE_IN_ATTRIBUTE = ("Cast", "DequantizeLinear")  # what they write is said by "to" and "output_dtype"


@dataclass(frozen=True)
class HalfNode:
    """Positions of the float32 inputs and outputs of a node that become float16."""

    inputs: frozenset[int] = frozenset()
    outputs: frozenset[int] = frozenset()


def half_nodes(graph: gs.Graph) -> dict[int, HalfNode]:
    """The nodes that compute in float16, by id. The type of every tensor is known."""
    measured = _measured(graph)
    found = {}
    for node in graph.nodes:
        half = _half(node, graph.opset)
        if half is not None and not any(id(tensor) in measured for tensor in node.outputs):
            found[id(node)] = half
    return found


def _measured(graph: gs.Graph) -> set[int]:
    """Ids of tensors that follow from shapes, and from nothing else that the model is fed with."""
    data = {id(tensor) for tensor in graph.inputs}
    measured: set[int] = set()
    for node in graph.nodes:
        read = {id(tensor) for tensor in node.inputs}
        written = {id(tensor) for tensor in node.outputs}
        if node.op in MEASURES or (read & measured and not read & data):
            measured |= written
        elif read & data or any(True for _ in node.subgraphs()):
            data |= written
    return measured


def _half(node: gs.Node, opset: int) -> HalfNode | None:
    """What of a node may be float16; None for one that does not know it, or has a body of its own."""
    known = node.domain in (None, "", "ai.onnx") and defs.has(node.op, opset, "")
    if not known or any(True for _ in node.subgraphs()):
        return None
    if node.op == "DequantizeLinear" and node.inputs[0].dtype == np.int32:
        return None  # a bias: its scale is a product of two, and often too small
    schema = defs.get_schema(node.op, opset, "")
    allowed = {each.type_param_str: each.allowed_type_strs for each in schema.type_constraints}
    left_out = POSITIONS_ABOUT_SPACE.get(node.op, ())
    reads = {
        position: _kind(schema.inputs, position)
        for position, tensor in enumerate(node.inputs)
        if tensor.dtype == SINGLE and position not in left_out
    }
    writes = {k: _kind(schema.outputs, k) for k, tensor in enumerate(node.outputs) if tensor.dtype == SINGLE}
    halves = {kind for kind in reads.values() if "tensor(float16)" in allowed.get(kind, ())}
    if 0 in writes and node.op in TYPE_IN_ATTRIBUTE and "tensor(float16)" in allowed.get(writes[0], ()):
        halves.add(writes[0])
    if 0 in writes and writes[0] not in halves:
        return None
    return HalfNode(
        frozenset(position for position, kind in reads.items() if kind in halves),
        frozenset(position for position, kind in writes.items() if kind in halves),
    )


def _kind(parameters: Sequence[OpSchema.FormalParameter], position: int) -> str:
    """The type of a parameter, or the name of one that it shares; the last parameter may stand for many."""
    return parameters[min(position, len(parameters) - 1)].type_str


def fill_in_types(graph: gs.Graph) -> None:
    """Write the type of every tensor that follows from the others. Raises ValueError where one does not."""
    unknown = [tensor for node in graph.nodes for tensor in node.outputs if tensor.dtype is None and tensor.name]
    if not unknown:
        return
    inferred = shape_inference.infer_shapes(weightless(graph)[0]).graph
    types = {entry.name: entry.type.tensor_type.elem_type for entry in (*inferred.value_info, *inferred.output)}
    for tensor in unknown:
        if types.get(tensor.name, TensorProto.UNDEFINED) == TensorProto.UNDEFINED:
            raise ValueError(f"the type of {tensor.name} is not known")
        tensor.dtype = helper.tensor_dtype_to_np_dtype(types[tensor.name])
