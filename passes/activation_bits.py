"""How many bits each activation gets.

    x 8 -> [Conv] -> b -> [Conv] -> b -> [Conv] -> 8 -> GlobalAveragePool -> 8 -> [Gemm] -> y

Those before every layer, the image among them, and those behind the last layer but one keep 8 bits unless told
otherwise, as the weights of the first and the last layers do: what a layer in the middle reads, and what joins on the
way to one, gets the bits asked for. Constants are not activations, they keep 8.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from passes.allocate_bits import PLENTY, ends_of
from passes.placement import Placement


def activation_bits(graph: gs.Graph, placement: Placement, bits: int, *, all_layers: bool = False) -> dict[str, int]:
    """Bits by name of each activation that is quantized; those that share a scale have the most that one of them has.

    More than 8 bits are for all of them: runtimes would have to convert between the two.
    """
    tensors = graph.tensors()
    chosen = {name for name in placement.tensors if isinstance(tensors[name], gs.Variable)}
    if not all_layers:
        chosen &= _between_layers(graph, {site.layer for site in placement.weights.values()})
    found = {name: bits if name in chosen else max(bits, PLENTY) for name in placement.tensors}
    for group in placement.groups:
        members = group & found.keys()
        found.update(dict.fromkeys(members, max((found[name] for name in members), default=PLENTY)))
    return found


def _between_layers(graph: gs.Graph, layers: set[str]) -> set[str]:
    """Tensors that depend on a layer, and on which a layer depends that is not one of the last. The graph is sorted."""
    inner = layers - ends_of(graph, layers)
    before: set[str] = set()
    for node in reversed(graph.nodes):
        if node.name in inner or any(tensor.name in before for tensor in node.outputs):
            before.update(tensor.name for tensor in node.inputs)
    behind: set[str] = set()
    for node in graph.nodes:
        if node.name in layers or any(tensor.name in behind for tensor in node.inputs):
            behind.update(tensor.name for tensor in node.outputs)
    return before & behind
