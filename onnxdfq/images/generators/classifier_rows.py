"""The weights by which a classifier tells its classes apart: a description of each class that comes with the model."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper

# Between the last weights and the scores: what changes no score's place, nor which row of the weights made it.
PASSED = frozenset({
    "Softmax", "LogSoftmax", "Sigmoid", "Identity", "Cast", "Flatten", "Reshape", "Squeeze", "Unsqueeze", "Relu",
    "Clip", "Add", "Mul", "Div", "GlobalAveragePool", "AveragePool", "ReduceMean", "Dropout",
})  # fmt: skip


def classifier_rows(model: onnx.ModelProto, classes: int) -> np.ndarray | None:
    """One row for each class, [classes, D] float32, of the last Gemm, MatMul or 1x1 Conv before the first output; None
    where there is none (Qimera's extracted embedding initialization)."""
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    writers = {name: node for node in model.graph.node for name in node.output}
    node = writers.get(model.graph.output[0].name)
    while node is not None and node.op_type in PASSED:
        computed = [name for name in node.input if name in writers]
        node = writers[computed[0]] if len(computed) == 1 else None
    if node is None or len(node.input) < 2 or node.input[1] not in values:
        return None
    weight = numpy_helper.to_array(values[node.input[1]]).astype(np.float32)
    transposed = any(each.name == "transB" and each.i for each in node.attribute)
    rows = None
    if node.op_type == "Conv" and weight.shape[2:] == (1, 1):
        rows = weight[:, :, 0, 0]
    elif node.op_type in ("Gemm", "MatMul") and weight.ndim == 2:
        rows = weight if transposed else weight.T
    return np.ascontiguousarray(rows) if rows is not None and len(rows) == classes else None
