"""How many bits the weights of each layer get.

The first and the last layers of a network keep 8 bits unless told otherwise: what the first one loses nobody after it
can mend, and the last one's errors are the answer's.

    x -> [Conv 8] -> [Conv b] -> [Conv b] -> [Gemm 8] -> y
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_graphsurgeon as gs

from passes.placement import Placement

PLENTY = 8


def uniform_bits(
    graph: gs.Graph,
    placement: Placement,
    bits: int,
    *,
    all_layers: bool = False,
    chosen: Mapping[str, int] | None = None,
) -> dict[str, int]:
    """Bits by the name of the weights. chosen: layers (by node name) for which someone has decided otherwise."""
    ends = set() if all_layers else ends_of(graph, {site.layer for site in placement.weights.values()})
    by_layer = dict(chosen or {})
    return {
        name: by_layer.get(site.layer, PLENTY if site.layer in ends else bits)
        for name, site in placement.weights.items()
    }


def ends_of(graph: gs.Graph, layers: set[str]) -> set[str]:
    """Layers that no other layer comes before, and those that none comes after. The graph is sorted."""
    after_layer: set[str] = set()  # tensors that depend on a layer
    first = set()
    for node in graph.nodes:
        behind = any(tensor.name in after_layer for tensor in node.inputs)
        if node.name in layers and not behind:
            first.add(node.name)
        if node.name in layers or behind:
            after_layer.update(tensor.name for tensor in node.outputs)
    before_layer: set[str] = set()  # tensors on which a layer depends
    last = set()
    for node in reversed(graph.nodes):
        ahead = any(tensor.name in before_layer for tensor in node.outputs)
        if node.name in layers and not ahead:
            last.add(node.name)
        if node.name in layers or ahead:
            before_layer.update(tensor.name for tensor in node.inputs)
    return first | last
