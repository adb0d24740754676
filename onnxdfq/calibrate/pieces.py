"""A graph cut into pieces that run one after the other on all images: what stands between two cuts can be changed
before anything reads it, and memory is needed only for the tensors that are alive at one cut."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

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
        reads = {tensor.name for node in nodes for tensor in _reads(node) if isinstance(tensor, gs.Variable)}
        self.needs = {name for name in reads - self.makes if name}

    def model(self, graph: gs.Graph, outputs: list[str]) -> onnx.ModelProto:
        """These nodes as a model of their own; initializers come along by reference, tensors are not touched."""
        tensors = {tensor.name: tensor for node in self.nodes for tensor in [*_reads(node), *node.outputs]}
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
    graph: gs.Graph, layers: Sequence[str], batches: Sequence[Batch]
) -> Iterator[tuple[gs.Node, list[np.ndarray]]]:
    """Each layer (name of a node) with the values of its first input for every batch, in the order of ``layers``, which
    has to be one in which they can run.

    A layer runs, with the weights and biases that it has by then, only when one that needs it is asked for.
    """
    graph.toposort()
    cuts = _before(graph, layers)
    last_use = {name: index for index, (_, piece) in enumerate(cuts) for name in piece.needs}
    last_use |= {layer.inputs[0].name: max(index, last_use.get(layer.inputs[0].name, 0))
                 for index, (layer, _) in enumerate(cuts)}  # fmt: skip
    alive = [dict(batch) for batch in batches]
    for index, (layer, piece) in enumerate(cuts):
        read = layer.inputs[0].name
        made = sorted(name for name in piece.makes if last_use.get(name, -1) >= index)
        session = Session(piece.model(graph, made), as_written=True) if made else None
        for held in alive:
            if session:
                held.update(session.run({name: held[name] for name in session.inputs}))
            for name in [each for each in held if last_use.get(each, -1) <= index and each != read]:
                del held[name]
        yield layer, [held[read] for held in alive]


def _before(graph: gs.Graph, layers: Sequence[str]) -> list[tuple[gs.Node, Piece]]:
    """Layers, each with the piece that ends just before it: what its first input needs and no layer before it did."""
    by_name = {node.name: node for node in graph.nodes}
    taken: set[int] = set()
    cuts = []
    for layer in [by_name[name] for name in layers]:
        new: set[int] = set()
        wanted = [layer.inputs[0]]
        while wanted:
            for maker in wanted.pop().inputs:
                if id(maker) not in taken:
                    taken.add(id(maker))
                    new.add(id(maker))
                    wanted.extend(_reads(maker))
        cuts.append((layer, Piece([node for node in graph.nodes if id(node) in new])))
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


def _reads(node: gs.Node) -> list[gs.Tensor]:
    """What a node reads, or a branch or a loop within it."""
    inner = [tensor for branch in node.subgraphs() for tensor in branch._foreign_tensors().values()]
    return [*node.inputs, *inner]
