"""Which tensors are quantized in the papers on training without data (GDFQ, Qimera, AdaDFQ), whatever a runtime gains.

    x -> Conv[W] -> Relu -> [q] -> Conv[W] -> Add -> Relu -> [q] -> GlobalAveragePool -> Gemm[W]
                             |_________________|

The weights of every layer are quantized, activations only where a Relu or a ReLU6 wrote them, and then for all that
read them. The image, a sum before its Relu, a linear bottleneck and the pooled feature stay in float.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import Skip
from passes.placement import RULE, WEIGHTED, Placement, WeightSite, objection, weight_axis


def place_as_published(graph: gs.Graph, keep_float: Mapping[str, str] | None = None) -> Placement:
    """The placement for a canonical graph. keep_float: nodes that shall not read integers, and why.

    Raises ValueError where no Relu writes an activation: the papers say nothing of what else to quantize.
    """
    placed, kept = Placement(), keep_float or {}
    outputs = {tensor.name for tensor in graph.outputs}
    for node in graph.nodes:
        if node.op in WEIGHTED:
            reason = kept.get(node.name) or objection(node)
            if reason:
                placed.skips.append(Skip(node.name, RULE, reason))
            else:
                placed.weights[node.inputs[1].name] = WeightSite(node.name, weight_axis(node))
        elif _rectifies(node):
            _after(node, placed, kept, outputs)
    if not placed.tensors:
        raise ValueError("no Relu or ReLU6 writes an activation, and the papers quantize no others")
    layers = {site.layer for site in placed.weights.values()}
    placed.integer = layers & {reader for readers in placed.readers.values() for reader in readers}
    return placed


def _after(node: gs.Node, placed: Placement, kept: Mapping[str, str], outputs: set[str]) -> None:
    """Want what a Relu writes, for its readers; nobody reads what only those in float do."""
    written = node.outputs[0]
    readers = [reader.name for reader in written.outputs if reader.name not in kept]
    if readers or (written.name in outputs and not written.outputs):
        placed.want(written, f"output of {node.name} ({node.op}), as published")
        placed.readers[written.name].update(readers)


def _rectifies(node: gs.Node) -> bool:
    """Whether a node is a Relu, or a Clip from 0 to anything, of float32."""
    if len(node.outputs) != 1 or node.outputs[0].dtype != np.float32:
        return False
    low = node.inputs[1] if node.op == "Clip" and len(node.inputs) > 1 else None
    return node.op == "Relu" or (isinstance(low, gs.Constant) and bool((low.values == 0).all()))
