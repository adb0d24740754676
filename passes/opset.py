"""Bring a graph to a newer opset without carrying its weights through onnx's converter.

    ReduceMean <axes = [2]> (x), opset 13        becomes        ReduceMean (x, axes), opset 18 and later

A newer opset means more than a number: operators changed between versions. The converter rewrites what has to be
rewritten or gives up. It sees large initializers as inputs of the model, for it copies whatever it is given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx
import onnx_graphsurgeon as gs

from passes.base import run_passes
from passes.canonicalize import ConstantsToInitializers, NameNodes, default_opset, raise_opset

LARGE = 1024  # elements; smaller constants may be axes, shapes or bounds, whose values the converter reads


def bring_to_opset(graph: gs.Graph, opset: int) -> None:
    """Raise a graph to ``opset``, in place: its nodes and tensors are new, its large constants are the same objects.

    A graph that is as new stays as it is. Raises ValueError, and leaves the graph alone, where the converter gives up.
    """
    model, weights = weightless(graph)
    if default_opset(model) >= opset:
        return
    _check_convertible(graph, opset)
    fresh = gs.import_onnx(raise_opset(model, opset))
    for weight in weights.values():
        weight.outputs.clear()  # the nodes of before
    _read(fresh, weights)
    fresh.inputs = [tensor for tensor in fresh.inputs if tensor.name not in weights]
    run_passes(fresh, (ConstantsToInitializers(), NameNodes()))
    graph.nodes, graph.inputs, graph.outputs = fresh.nodes, fresh.inputs, fresh.outputs
    graph.opset, graph.import_domains, graph.ir_version = fresh.opset, fresh.import_domains, fresh.ir_version


def _check_convertible(graph: gs.Graph, opset: int) -> None:
    """Raise ValueError for an operator whose change the converter passes over in silence."""
    nodes = [node for each in (graph, *graph.subgraphs(recursive=True)) for node in each.nodes]
    for node in nodes:
        if node.op == "GroupNormalization" and graph.opset < 21 <= opset:  # one scale for each group, then channel
            raise ValueError(f"GroupNormalization of opset {graph.opset} is another one than that of opset {opset}")


def weightless(graph: gs.Graph) -> tuple[onnx.ModelProto, dict[str, gs.Constant]]:
    """The graph as a model whose large constants are inputs, and those constants by name."""
    weights = {
        name: tensor
        for name, tensor in graph.tensors().items()
        if isinstance(tensor, gs.Constant) and math.prod(tensor.shape) > LARGE
    }
    copy = graph.copy()
    inputs = {name: gs.Variable(name, weight.dtype, weight.shape) for name, weight in weights.items()}
    _read(copy, inputs)
    copy.inputs = [*copy.inputs, *inputs.values()]
    return gs.export_onnx(copy), weights


def _read(graph: gs.Graph, tensors: Mapping[str, gs.Tensor]) -> None:
    """Let all nodes, and those in the bodies of If and Loop, read these tensors where they read others so named."""
    for each in (graph, *graph.subgraphs(recursive=True)):
        for node in each.nodes:
            node.inputs = [tensors.get(tensor.name, tensor) for tensor in node.inputs]
        each.outputs = [tensors.get(tensor.name, tensor) for tensor in each.outputs]
