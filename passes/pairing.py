"""Which layers get few bits, each followed by layers with more bits that can make up for what it loses.

    x -> [A low] -> Relu -> [B high] -> y           what a channel of A loses, a factor in B can give back: DF-MPC

Along the graph, a layer is low if all that read its channels (channel_paths.py) can be high: blocks of residual
networks come out as (conv1, conv2), inverted residuals as (expand, project), plain chains alternate. Of three layers in
a row of which only two can be low, as in a bottleneck, the one with more weights is. Depthwise convolutions are never
low: a channel of nine weights saves little and loses much. A high layer serves several low ones where a Concat brings
their channels to it; each has its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from passes.base import Skip
from passes.channel_paths import ChannelPath, is_depthwise, path_of

RULE = "pairing"


@dataclass(frozen=True)
class Pair:
    """A layer with few bits, and by ``path`` those that read it: ``high`` are its readers."""

    low: str
    high: tuple[str, ...]
    path: ChannelPath


@dataclass(frozen=True)
class Pairing:
    """The pairs in the order of the graph; skips: quantized layers in no pair, with the reason; they stay high.

    kept: layers of pairs whose bits are not the pairing's: first and last ones, and those left in float.
    """

    pairs: tuple[Pair, ...]
    skips: tuple[Skip, ...]
    kept: frozenset[str] = frozenset()

    def bits(self, low: int, high: int) -> dict[str, int]:
        """Bits by layer, for the layers of the pairs, depthwise ones on the way included."""
        members = {name: high for pair in self.pairs for name in (*pair.path.through, *pair.high)}
        members |= {pair.low: low for pair in self.pairs}
        return {name: width for name, width in members.items() if name not in self.kept}


def find_pairs(graph: gs.Graph, layers: Collection[str], ends: Collection[str]) -> Pairing:
    """Pair the layers of a canonical graph, with BatchNormalization folded or kept. Pure.

    layers: those whose weights are quantized. ends: the first and the last, which are never low.
    """
    nodes = [node for node in graph.nodes if node.name in layers and node.name not in ends]
    sizes = {node.name: node.inputs[1].values.size for node in nodes}
    candidates: dict[str, ChannelPath] = {}
    reasons: dict[str, str] = {}
    for node in nodes:
        path = path_of(graph, node.name)
        if is_depthwise(node):
            reasons[node.name] = "it is depthwise: few weights, and each of them counts"
        elif isinstance(path, Skip):
            reasons[node.name] = path.reason
        else:
            candidates[node.name] = path
    low: dict[str, ChannelPath] = {}
    high: set[str] = set()
    for name, path in candidates.items():
        if name in low or name in high:
            continue
        chosen = _heavier_reader(path, candidates, sizes, high) or path
        if chosen.layer != name:
            reasons[name] = f"{chosen.layer}, which reads its channels, holds more weights and is low instead"
        taken = [reader.layer for reader in path.readers if reader.layer in low]
        if taken:
            reasons[name] = f"{taken[0]}, which reads its channels, is low itself"
        else:
            low[chosen.layer] = chosen
            high.update(_readers(chosen), chosen.through)
    pairs = tuple(Pair(name, _readers(low[name]), low[name]) for name in candidates if name in low)
    alone = [node.name for node in nodes if node.name not in low and node.name not in high]
    kept = frozenset(name for name in high if name in ends or name not in layers)
    return Pairing(pairs, tuple(Skip(name, RULE, reasons[name]) for name in alone), kept)


def _readers(path: ChannelPath) -> tuple[str, ...]:
    return tuple(dict.fromkeys(reader.layer for reader in path.readers))


def _heavier_reader(
    path: ChannelPath, candidates: Mapping[str, ChannelPath], sizes: Mapping[str, int], high: Collection[str]
) -> ChannelPath | None:
    """The path of the layer that had better be low: the only reader, if no third layer could be low after it."""
    readers = _readers(path)
    after = candidates.get(readers[0])
    if len(readers) > 1 or after is None or after.layer in high or sizes[after.layer] <= sizes[path.layer]:
        return None
    return None if any(name in candidates for name in _readers(after)) else after
