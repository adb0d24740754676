"""A Sum of several tensors is a chain of additions: write it as one.

    y = ((a + b) + c)

    a, b -> Sum -> y            becomes      a, b -> Add -> y
    a, b, c -> Sum -> y         becomes      a, b -> Add; that, c -> Add -> y

Runtimes have an integer kernel for Add and none for Sum, with which some exporters end residual blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import onnx_graphsurgeon as gs

from passes.base import Pass, PassResult


@dataclass(frozen=True)
class SumToAdd(Pass):
    """Rewrite every Sum of two or more."""

    name: ClassVar[str] = "sum-to-add"

    def __call__(self, graph: gs.Graph) -> PassResult:
        found = [node for node in graph.nodes if node.op == "Sum" and len(node.inputs) > 1]
        for node in found:
            _rewrite(graph, node)
        graph.cleanup().toposort()
        return PassResult(len(found))


def _rewrite(graph: gs.Graph, node: gs.Node) -> None:
    total, *others = node.inputs
    written = node.outputs[0]
    node.inputs.clear()
    node.outputs.clear()
    for position, each in enumerate(others[:-1], 1):
        partial = gs.Variable(f"{written.name}_partial_{position}", written.dtype)
        graph.layer(op="Add", name=f"{node.name}_partial_{position}", inputs=[total, each], outputs=[partial])
        total = partial
    graph.layer(op="Add", name=node.name, inputs=[total, others[-1]], outputs=[written])
