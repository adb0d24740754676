"""A 1x1 convolution of a single pixel is a matrix product: write it as one, where it is a model's last layer.

    y[n, o] = sum_i W[o, i] x[n, i] + b[o]

    pool [N, C, 1, 1] -> Conv(W, b) -> Flatten      becomes      pool -> Flatten -> Gemm(W, b)
    pool [N, C, 1, 1] -> Conv(W, b) -> z            becomes      pool -> Flatten -> Gemm(W, b) -> Reshape -> z

Classifiers exported from TensorFlow end like this. Integer Gemm kernels can write floats, integer convolutions cannot:
as Gemm, the scores of a classifier need not be rounded to 8 bits. Before other layers, as in squeeze-and-excite, it
stays a convolution: what follows reads integers anyway, and a Flatten and a Reshape cost more than they gain.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import Pass, PassResult
from passes.placement import WEIGHTED


@dataclass(frozen=True)
class PointwiseToGemm(Pass):
    """Rewrite every such convolution whose input is known to be a single pixel, and that no other layer comes after."""

    name: ClassVar[str] = "pointwise-to-gemm"

    def __call__(self, graph: gs.Graph) -> PassResult:
        followed = _followed_by_layers(graph)
        found = [node for node in graph.nodes if node.op == "Conv" and id(node) not in followed and _is_pointwise(node)]
        for node in found:
            _rewrite(graph, node)
        graph.cleanup().toposort()
        return PassResult(len(found))


def _followed_by_layers(graph: gs.Graph) -> set[int]:
    """Ids of nodes whose result a layer reads, however far behind. The graph is sorted."""
    nodes: set[int] = set()
    tensors: set[int] = set()  # on which a layer depends
    for node in reversed(graph.nodes):
        if any(id(tensor) in tensors for tensor in node.outputs):
            nodes.add(id(node))
        if id(node) in nodes or node.op in WEIGHTED:
            tensors.update(id(tensor) for tensor in node.inputs)
    return nodes


def _is_pointwise(node: gs.Node) -> bool:
    data, weight = node.inputs[:2]
    return (
        isinstance(weight, gs.Constant)
        and weight.values.ndim == 4
        and weight.values.shape[2:] == (1, 1)
        and node.attrs.get("group", 1) == 1
        and not any(node.attrs.get("pads", []))
        and (_single_pixel(data))
    )


def _single_pixel(tensor: gs.Tensor) -> bool:
    pooled = bool(tensor.inputs) and tensor.inputs[0].op in ("GlobalAveragePool", "GlobalMaxPool")
    return pooled or (tensor.shape is not None and len(tensor.shape) == 4 and list(tensor.shape[2:]) == [1, 1])


def _rewrite(graph: gs.Graph, node: gs.Node) -> None:
    data, weight, *bias = node.inputs
    written = node.outputs[0]
    channels = weight.values.shape[0]
    matrix = gs.Constant(f"{weight.name}_matrix", weight.values.reshape(channels, -1))
    flat = gs.Variable(f"{written.name}_flat", weight.dtype)
    graph.layer(op="Flatten", name=f"{node.name}_flatten", inputs=[data], outputs=[flat], attrs={"axis": 1})
    node.outputs.clear()
    node.inputs.clear()
    reader = written.outputs[0] if len(written.outputs) == 1 else None
    flattens = reader is not None and reader.op == "Flatten" and reader.attrs.get("axis", 1) == 1
    if reader is not None and flattens and not any(tensor is written for tensor in graph.outputs):
        product = reader.outputs[0]
        reader.outputs.clear()
    else:
        product = gs.Variable(f"{written.name}_product", weight.dtype)
        shape = gs.Constant(f"{written.name}_shape", np.array([-1, channels, 1, 1], np.int64))
        graph.layer(op="Reshape", name=f"{node.name}_reshape", inputs=[product, shape], outputs=[written])
    graph.layer(
        op="Gemm", name=node.name, inputs=[flat, matrix, *bias], outputs=[product], attrs={"transB": 1}
    )  # fmt: skip
