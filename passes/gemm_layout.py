"""Write a matrix product and its bias in the form whose integer kernel a runtime finds.

    x [N, K] -> MatMul(W) -> Add(b)            becomes        x -> Gemm(W, b)
    x [2, T, K] -> MatMul(W) -> Add(b [C])     becomes        x -> MatMul(W) -> Add(b [1, C])

    y[n, c] = sum_k x[n, k] W[k, c] + b[c]     all four ways

Before it looks for Q and DQ, ONNX Runtime turns the left-hand sides into a Gemm with a float bias, for which it has no
integer kernel. With a bias in int32 the first right-hand side is a QGemm; the second it leaves apart, and its product
runs in integers. Where a dimension is free it leaves the second left-hand side alone too, and so does this pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_graphsurgeon as gs

from passes.base import Pass, PassResult


@dataclass(frozen=True)
class GemmLayout(Pass):
    """Rewrite every product with constant weights that only the Add of its constant bias reads."""

    name: ClassVar[str] = "gemm-layout"

    def __call__(self, graph: gs.Graph) -> PassResult:
        outputs = {id(tensor) for tensor in graph.outputs}
        changed = 0
        for product in [node for node in graph.nodes if node.op == "MatMul"]:
            found = None if id(product.outputs[0]) in outputs else _bias(product)
            if found is None:
                continue
            add, position = found
            shape = product.inputs[0].shape or ()
            if len(shape) == 2:
                _to_gemm(product, add, add.inputs[position])
                changed += 1
            elif len(shape) > 2 and add.inputs[position].values.ndim == 1 and all(isinstance(d, int) for d in shape):
                bias = add.inputs[position]
                add.inputs[position] = gs.Constant(bias.name, bias.values[np.newaxis])
                changed += 1
        graph.cleanup()
        return PassResult(changed)


def _bias(product: gs.Node) -> tuple[gs.Node, int] | None:
    """The Add of one value for each column that alone reads a product with constant weights, and where it has it."""
    data, weight = product.inputs
    readers = product.outputs[0].outputs
    if isinstance(data, gs.Constant) or not isinstance(weight, gs.Constant) or weight.values.ndim != 2:
        return None
    if len(readers) != 1 or readers[0].op != "Add":
        return None
    for position, tensor in enumerate(readers[0].inputs):
        columns = (1,) * len(tensor.shape[:-1]) + (weight.shape[1],) if isinstance(tensor, gs.Constant) else None
        if columns and tensor.shape and tuple(tensor.shape) == columns and len(columns) <= len(data.shape or ()):
            return readers[0], position
    return None


def _to_gemm(product: gs.Node, add: gs.Node, bias: gs.Constant) -> None:
    flat = gs.Constant(bias.name, bias.values.reshape(-1))
    written = add.outputs[0]
    add.outputs.clear()
    add.inputs.clear()
    product.op = "Gemm"
    product.inputs.append(flat)
    product.outputs = [written]
