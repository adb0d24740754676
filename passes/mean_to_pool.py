"""A mean over all pixels of an image is a global average pool: write it as one.

    y[n, c] = 1 / (H W) sum_hw x[n, c, h, w]

    x [N, C, H, W] -> ReduceMean(2, 3) -> y [N, C, 1, 1]       becomes      x -> GlobalAveragePool -> y
    x [N, C, H, W] -> ReduceMean(2, 3) -> y [N, C]             becomes      x -> GlobalAveragePool -> Flatten -> y

Runtimes have an integer kernel for the pool and none for the mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import Pass, PassResult


@dataclass(frozen=True)
class MeanToPool(Pass):
    """Rewrite every mean over all axes behind the second, where the number of axes is known."""

    name: ClassVar[str] = "mean-to-pool"

    def __call__(self, graph: gs.Graph) -> PassResult:
        found = [node for node in graph.nodes if node.op == "ReduceMean" and _over_pixels(node)]
        for node in found:
            _rewrite(graph, node)
        graph.cleanup().toposort()
        return PassResult(len(found))


def _over_pixels(node: gs.Node) -> bool:
    data = node.inputs[0]
    if data.shape is None or len(data.shape) < 3 or data.dtype not in (np.float16, np.float32, np.float64):
        return False
    axes = _axes(node)
    return axes is not None and sorted(axis % len(data.shape) for axis in axes) == list(range(2, len(data.shape)))


def _axes(node: gs.Node) -> list[int] | None:
    """Axes that are summed over: an attribute before opset 18, an input since; None where they are not known."""
    if len(node.inputs) < 2 or not node.inputs[1].name:
        return node.attrs.get("axes")
    return node.inputs[1].values.tolist() if isinstance(node.inputs[1], gs.Constant) else None


def _rewrite(graph: gs.Graph, node: gs.Node) -> None:
    data, written = node.inputs[0], node.outputs[0]
    keeps = node.attrs.get("keepdims", 1)
    node.inputs.clear()
    node.outputs.clear()
    if keeps:
        graph.layer(op="GlobalAveragePool", name=node.name, inputs=[data], outputs=[written])
        return
    shape = [*data.shape[:2], *[1] * (len(data.shape) - 2)]
    pooled = gs.Variable(f"{written.name}_pooled", data.dtype, shape)
    graph.layer(op="GlobalAveragePool", name=node.name, inputs=[data], outputs=[pooled])
    graph.layer(op="Flatten", name=f"{node.name}_flatten", inputs=[pooled], outputs=[written], attrs={"axis": 1})
