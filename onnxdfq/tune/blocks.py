"""A graph cut where all that is known is one tensor: residual blocks, inverted residuals, halves of transformer layers.

    x -> Conv -> Relu -> Conv -> Add -> Relu -> Conv ...
     |________________________|        ^ the one tensor on which all that follows hangs: a block ends

A piece without weights belongs to the block before it where it keeps the shape, as an activation does, else to the one
behind it, as pooling does. The blocks of a plain chain are its layers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

import onnx_graphsurgeon as gs


@dataclass(frozen=True)
class Block:
    """From the tensor ``start`` to the tensor ``end``, with its layers of quantized weights, by name."""

    start: str
    end: str
    layers: tuple[str, ...]


def find_blocks(graph: gs.Graph, layers: Collection[str]) -> list[Block]:
    """The blocks of a sorted graph, in order; none before several inputs have joined. layers: names of nodes with
    quantized weights. What no block holds can only be trained as part of the whole."""
    outputs = {tensor.name for tensor in graph.outputs}
    shapes = {tensor.name: tensor.shape for tensor in graph.tensors().values()}
    found: list[Block] = []
    start, held = "", []
    for cut, nodes in _pieces(graph):
        held += [node.name for node in nodes if node.name in layers]
        if not start:
            start, held = cut, []
        elif held:
            found.append(Block(start, cut, tuple(held)))
            start, held = cut, []
        elif found and found[-1].end == start and (shapes[cut] == shapes[start] or cut in outputs):
            found[-1] = Block(found[-1].start, cut, found[-1].layers)
            start = cut
    return found


def _pieces(graph: gs.Graph) -> list[tuple[str, list[gs.Node]]]:
    """Tensors on which all that follows hangs, each with the nodes since the one before it."""
    waiting: Counter[str] = Counter(name for node in graph.nodes for name in _reads(node))
    waiting.update(tensor.name for tensor in graph.outputs)
    alive = {tensor.name for tensor in graph.inputs if waiting[tensor.name]}
    found: list[tuple[str, list[gs.Node]]] = []
    if len(alive) == 1:
        found.append((next(iter(alive)), []))
    since: list[gs.Node] = []
    for node in graph.nodes:
        since.append(node)
        for name in _reads(node):
            waiting[name] -= 1
            if not waiting[name]:
                alive.discard(name)
        alive.update(tensor.name for tensor in node.outputs if waiting[tensor.name])
        if len(alive) == 1 and alive == {tensor.name for tensor in node.outputs if tensor.name in alive}:
            found.append((next(iter(alive)), since))
            since = []
    return found


def _reads(node: gs.Node) -> list[str]:
    """The computed tensors that a node reads, or a branch within it, as often as it does."""
    inner = [tensor for branch in node.subgraphs() for tensor in branch._foreign_tensors().values()]
    return [tensor.name for tensor in [*node.inputs, *inner] if isinstance(tensor, gs.Variable) and tensor.name]
