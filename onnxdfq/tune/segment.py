"""A part of a lowered graph, from one tensor to another, as a module of its own that shares its parameters."""

from __future__ import annotations

from torch import fx

from onnxdfq.engine.lowering import graph_module


def between(gm: fx.GraphModule, start: str, end: str) -> fx.GraphModule:
    """A module that takes the ONNX tensor ``start`` and returns ``end``, which hangs on no other input."""
    tensors = {node.meta["onnx_tensor"]: node for node in gm.graph.nodes if "onnx_tensor" in node.meta}
    graph = fx.Graph()
    copies = {tensors[start]: graph.placeholder("start")}
    copies[tensors[start]].meta.update(tensors[start].meta | {"disposable": False})
    wanted = {tensors[end]}
    for node in reversed(list(gm.graph.nodes)):
        if node in wanted and node not in copies:
            wanted.update(node.all_input_nodes)
    for node in gm.graph.nodes:
        if node in wanted and node not in copies:
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[tensors[end]])
    return graph_module(gm, graph, {})
