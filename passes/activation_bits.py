"""How many bits each activation gets, and who reads it with so few.

    x 8 -> [Conv] -> b -> [Conv] -> b -> [Conv] -> 8 -> GlobalAveragePool -> 8 -> [Gemm] -> y

    Add -> b -> [Conv] -> b -> [Conv] -> Add
     |______________ float ______________|

The bits asked for are those of multiplications, which is where they cost: what a layer in the middle reads gets them,
and what shares its scale on the way there. What is only added, pooled or given to an activation keeps 8, as do those
before every layer, the image among them, and those behind the last layer but one, as the weights of the first and last
layers do. With all layers only what comes before the first one keeps 8. Constants are not activations, they keep 8.

A tensor of few bits that is also added, as on a residual path, is read with them by the layers alone, which is how such
networks are published (BRECQ, QDrop, Genie); targets on which everything is in integers have it so for all its readers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import onnx_graphsurgeon as gs

from passes.allocate_bits import PLENTY, ends_of
from passes.placement import WEIGHTED, Placement
from passes.targets import Target


def activation_bits(graph: gs.Graph, placement: Placement, bits: int, *, all_layers: bool = False) -> dict[str, int]:
    """Bits by name of each activation that is quantized; those that share a scale have the most that one of them has.

    More than 8 bits are for all of them: runtimes would have to convert between the two.
    """
    tensors = graph.tensors()
    layers = {site.layer for site in placement.weights.values()}
    chosen = {name for name in placement.tensors if isinstance(tensors[name], gs.Variable)}
    chosen &= _multiplied(graph, placement) & _behind(graph, layers)
    if not all_layers:
        chosen &= _before(graph, layers - ends_of(graph, layers))
    found = {name: bits if name in chosen else max(bits, PLENTY) for name in placement.tensors}
    for group in placement.groups:
        members = group & found.keys()
        found.update(dict.fromkeys(members, max((found[name] for name in members), default=PLENTY)))
    return found


def for_products_alone(graph: gs.Graph, placement: Placement, widths: Mapping[str, int], target: Target) -> Placement:
    """The placement in which products alone read activations of fewer than 8 bits so, and what keeps their scale.

    Where another reader is in float now, as an Add is, it reads all its operands so: integers would gain nothing there,
    and the bias of a layer before it would be rounded to the coarse steps that products of few bits have.
    """
    if target.everything:
        return placement
    nodes = {node.name: node for node in graph.nodes}
    readers = {name: set(each) for name, each in placement.readers.items()}
    in_float: set[str] = set()
    for name, bits in widths.items():
        alike: set[str] = set().union(*(group for group in placement.groups if name in group))
        fitting = {
            each
            for each in readers.get(name, ())
            if nodes[each].op in WEIGHTED or any(tensor.name in alike for tensor in nodes[each].outputs)
        }
        if bits < PLENTY and fitting:
            in_float |= readers[name] - fitting
            readers[name] = fitting
    for name in readers.keys() & placement.tensors.keys():
        if readers[name] & in_float:
            readers[name] -= in_float
    outputs = {tensor.name for tensor in graph.outputs}
    unread = {name for name in placement.tensors if placement.readers.get(name) and not readers[name]} - outputs
    return replace(
        placement,
        tensors={name: why for name, why in placement.tensors.items() if name not in unread},
        readers={name: each for name, each in readers.items() if name not in unread},
        groups=[group - unread for group in placement.groups],
    )


def _multiplied(graph: gs.Graph, placement: Placement) -> set[str]:
    """Tensors that a product reads in integers, or that share the scale of one that it reads."""
    products = {node.name for node in graph.nodes if node.op in WEIGHTED}
    read = {name for name, readers in placement.readers.items() if products & set(readers)}
    return read.union(*(group for group in placement.groups if group & read))


def _before(graph: gs.Graph, layers: set[str]) -> set[str]:
    """Tensors on which one of these layers depends. The graph is sorted."""
    found: set[str] = set()
    for node in reversed(graph.nodes):
        if node.name in layers or any(tensor.name in found for tensor in node.outputs):
            found.update(tensor.name for tensor in node.inputs)
    return found


def _behind(graph: gs.Graph, layers: set[str]) -> set[str]:
    """Tensors that depend on one of these layers."""
    found: set[str] = set()
    for node in graph.nodes:
        if node.name in layers or any(tensor.name in found for tensor in node.inputs):
            found.update(tensor.name for tensor in node.outputs)
    return found
