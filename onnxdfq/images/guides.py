"""What a model offers to steer images by: statistics that training left in it, and classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

# Scores are such; whole numbers are what was made of scores: a class, a number of objects.
FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)


@dataclass(frozen=True)
class Guides:
    """What the model offers to steer images by. classes: 0 when the first output is no vector of scores."""

    statistics: dict[str, tuple[np.ndarray, np.ndarray]]  # input of a normalization -> its mean and deviation, each [C]
    classes: int

    def __bool__(self) -> bool:
        return bool(self.statistics or self.classes)


def guides(model: onnx.ModelProto) -> Guides:
    """BatchNormalization statistics and the number of classes, as found in the graph."""
    values = {tensor.name: tensor for tensor in model.graph.initializer}
    inputs = {entry.name for entry in model.graph.input}  # what normalizes them says nothing of the layers
    statistics = {}
    for node in model.graph.node:
        known = node.op_type == "BatchNormalization" and all(name in values for name in node.input[3:5])
        if known and node.input[0] not in inputs:
            mean, variance = (numpy_helper.to_array(values[name]).astype(np.float32) for name in node.input[3:5])
            epsilon = next((each.f for each in node.attribute if each.name == "epsilon"), 1e-5)
            statistics[node.input[0]] = (mean, np.sqrt(variance + epsilon))
    return Guides(statistics, _classes(model))


def _classes(model: onnx.ModelProto) -> int:
    kind = model.graph.output[0].type.tensor_type
    dims = [size.dim_value for size in kind.shape.dim]
    scores = kind.elem_type in FLOATS and (len(dims) == 2 or (len(dims) == 4 and dims[2:] == [1, 1]))
    images = next((size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim), 0)
    if scores and dims[0] != images and (images or dims[0] > 1):
        return 0  # not a row for each image: boxes, say
    return dims[1] if scores and dims[1] > 1 else 0
