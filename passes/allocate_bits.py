"""How many bits the weights of each layer get.

The first and the last layers of a network keep 8 bits unless told otherwise: what the first one loses nobody after it
can mend, and the last one's errors are the answer's.

    x -> [Conv 8] -> [Conv b] -> [Conv b] -> [Gemm 8] -> y

With a budget instead of b, each layer in between gets the bits with which all of them together do the least damage:

    size      bytes of the integers in the file, of all layers, over those of the same weights in float32
    average   bits per weight of the layers that are free, whatever a file needs to hold them
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import onnx_graphsurgeon as gs

from passes.knapsack import allocate
from passes.pack_weights import packed_size
from passes.pairing import Pairing, find_pairs
from passes.placement import Placement
from passes.targets import Target

PLENTY = 8
WIDTHS = (2, 3, 4, 6, 8)
Widths = Mapping[str, tuple[int, ...]]


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


def paired_bits(
    graph: gs.Graph,
    placement: Placement,
    low: int,
    high: int,
    *,
    all_layers: bool = False,
    chosen: Mapping[str, int] | None = None,
) -> tuple[dict[str, int], Pairing]:
    """``low`` bits for the first layer of each pair and ``high`` for all others, by name of the weights; and the pairs.

    all_layers, chosen: as of ``uniform_bits``; what was chosen for a layer of a pair leaves the pair as it is.
    """
    layers = {site.layer for site in placement.weights.values()}
    pairing = find_pairs(graph, layers, set() if all_layers else ends_of(graph, layers))
    decided = {**pairing.bits(low, high), **(chosen or {})}
    return uniform_bits(graph, placement, high, all_layers=all_layers, chosen=decided), pairing


def possible_bits(
    graph: gs.Graph,
    placement: Placement,
    target: Target,
    *,
    all_layers: bool = False,
    chosen: Mapping[str, int] | None = None,
) -> dict[str, tuple[int, ...]]:
    """The bits that the weights of each layer may get, by name of the layer: a single number where that is settled."""
    free = uniform_bits(graph, placement, 0, all_layers=all_layers, chosen=chosen)
    return {
        site.layer: tuple(sorted({min(bits, target.weight_bits) for bits in ([free[name]] if free[name] else WIDTHS)}))
        for name, site in placement.weights.items()
    }


def bits_within_size(
    elements: Mapping[str, int],
    possible: Widths,
    damages: Mapping[str, Mapping[int, float]],
    share: float,
    containers: Collection[int],
) -> dict[str, int]:
    """Bits by layer such that the weights of all layers take at most ``share`` of their bytes in float32.

    elements: weights of each layer. damages: of all bits that are possible, by layer; layers that are settled need
    none. containers: bits of the integers, beside those of 8, that the file may hold. Of the bits that one container
    holds only the most are chosen, for fewer would save nothing.

    Raises ValueError when the share is too small, and says which is the smallest.
    """
    costs = {}
    for layer, widths in possible.items():
        held = {_container(bits, containers): bits for bits in sorted(widths)}
        costs[layer] = {bits: packed_size(elements[layer], container) for container, bits in held.items()}
    whole = 4 * sum(elements[layer] for layer in possible)
    least = sum(min(each.values()) for each in costs.values())
    if least > share * whole:
        smallest = math.ceil(1e4 * least / whole) / 1e4  # rounded up: so that this one is possible
        raise ValueError(f"the weights can't be stored in {share:g} of their float32 bytes: {smallest:g} is the least")
    return allocate(costs, _with_settled(damages, possible), int(share * whole))


def bits_within_average(
    elements: Mapping[str, int], possible: Widths, damages: Mapping[str, Mapping[int, float]], average: float
) -> dict[str, int]:
    """Bits by layer such that the weights of all layers that are not settled have at most ``average`` bits.

    elements, possible, damages: as of ``bits_within_size``. Raises ValueError when the average is too small.
    """
    free = [layer for layer, widths in possible.items() if len(widths) > 1]
    least = min((min(possible[layer]) for layer in free), default=0)
    if average < least:
        raise ValueError(f"weights can't have {average:g} bits on average: {least} is the least")
    costs = {layer: {bits: bits * elements[layer] for bits in possible[layer]} for layer in free}
    found = allocate(costs, damages, int(average * sum(elements[layer] for layer in free)))
    return {layer: found.get(layer, widths[0]) for layer, widths in possible.items()}


def _container(bits: int, containers: Collection[int]) -> int:
    return min((width for width in containers if width >= bits), default=8)


def _with_settled(damages: Mapping[str, Mapping[int, float]], possible: Widths) -> dict[str, Mapping[int, float]]:
    return {layer: damages[layer] if len(widths) > 1 else {widths[0]: 0.0} for layer, widths in possible.items()}


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
