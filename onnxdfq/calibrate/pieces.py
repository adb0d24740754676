"""A graph cut into pieces that run one after the other on all images: what stands between two cuts can be changed
before anything reads it, and memory is needed only for the tensors that are alive at one cut."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from onnxdfq.engine.ort import Session

Batch = Mapping[str, np.ndarray]


class Piece:
    """The nodes between two cuts."""

    def __init__(self, nodes: list[gs.Node]) -> None:
        self.nodes = nodes
        self.makes = {tensor.name for node in nodes for tensor in node.outputs}
        reads = {tensor.name for node in nodes for tensor in node.inputs if isinstance(tensor, gs.Variable)}
        self.needs = {name for name in reads - self.makes if name}

    def model(self, graph: gs.Graph, outputs: list[str]) -> onnx.ModelProto:
        """These nodes as a model of their own; initializers come along by reference, tensors are not touched."""
        tensors = {tensor.name: tensor for node in self.nodes for tensor in [*node.inputs, *node.outputs]}
        part = gs.Graph(
            nodes=self.nodes,
            inputs=[tensors[name] for name in sorted(self.needs)],
            outputs=[tensors[name] for name in outputs],
            opset=graph.opset,
            import_domains=graph.import_domains,
            ir_version=graph.ir_version,
        )
        exported = gs.export_onnx(part, do_type_check=False)
        for entry in exported.graph.output:  # shapes may hold names of sizes: leave them to the runtime
            entry.type.tensor_type.ClearField("shape")
        for entry in exported.graph.input:
            entry.type.tensor_type.ClearField("shape")
        return exported


def inputs_of_layers(
    graph: gs.Graph, layers: Collection[str], batches: Sequence[Batch]
) -> Iterator[tuple[gs.Node, list[np.ndarray]]]:
    """Each layer (name of a node), in order, with the values of its first input for every batch.

    A layer runs, with the weights and biases that it has by then, only when the next one is asked for.
    """
    graph.toposort()
    cuts = _before(graph, layers)
    last_use = {name: index for index, (_, piece) in enumerate(cuts) for name in piece.needs}
    last_use |= {layer.inputs[0].name: max(index, last_use.get(layer.inputs[0].name, 0))
                 for index, (layer, _) in enumerate(cuts)}  # fmt: skip
    alive = [dict(batch) for batch in batches]
    for index, (layer, piece) in enumerate(cuts):
        made = sorted(name for name in piece.makes if last_use.get(name, -1) >= index)
        if made:
            session = Session(piece.model(graph, made))
            for held in alive:
                held.update(session.run({name: held[name] for name in session.inputs}))
        yield layer, [held[layer.inputs[0].name] for held in alive]
        for held in alive:
            for name in [each for each in held if last_use.get(each, -1) <= index]:
                del held[name]


def _before(graph: gs.Graph, layers: Collection[str]) -> list[tuple[gs.Node, Piece]]:
    """The pieces that end just before a layer. What is computed from constants alone comes with what reads it."""
    makers = {tensor.name: node for node in graph.nodes for tensor in node.outputs}
    constant: set[str] = set()
    for node in graph.nodes:
        if node.inputs and all(isinstance(each, gs.Constant) or each.name in constant for each in node.inputs):
            constant.update(tensor.name for tensor in node.outputs)
    taken: set[int] = set()
    nodes: list[gs.Node] = []

    def take(node: gs.Node) -> None:
        if id(node) in taken:
            return
        taken.add(id(node))
        for tensor in node.inputs:
            if tensor.name in constant:
                take(makers[tensor.name])
        nodes.append(node)

    cuts = []
    for node in graph.nodes:
        if node.outputs and node.outputs[0].name in constant:
            continue
        if node.name in layers:
            cuts.append((node, Piece(list(nodes))))
            nodes.clear()
        take(node)
    return cuts


def behind_layers(graph: gs.Graph, layers: Sequence[gs.Node]) -> list[Piece]:
    """The pieces that end with a layer."""
    ends = {id(layer) for layer in layers}
    pieces, nodes = [], []
    for node in graph.nodes:
        nodes.append(node)
        if id(node) in ends:
            pieces.append(Piece(nodes))
            nodes = []
    return pieces
