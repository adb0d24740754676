"""How far the engine is from ONNX Runtime on a whole model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import torch
from torch import Tensor

from onnxdfq.engine.lower import lower
from tests.onnxdfq.engine.conftest import run_onnxruntime

LIMIT = 1e-4


def relative_error(model: onnx.ModelProto, inputs: Sequence[Tensor], static: bool = False) -> float:
    """The largest |ours - theirs| of an output, over its largest |theirs|; of all outputs the worst.

    static: lower the model for the shapes of these inputs.
    """
    feed = dict(zip(_input_names(model), inputs, strict=True))
    expected = run_onnxruntime(model, {name: tensor.numpy() for name, tensor in feed.items()})
    shapes = {name: tuple(tensor.shape) for name, tensor in feed.items()}
    with torch.no_grad():
        actual = lower(model, input_shapes=shapes if static else None)(*inputs)
    return max(_error(ours.numpy(), theirs) for ours, theirs in zip(actual, expected, strict=True))


def random_inputs(model: onnx.ModelProto) -> list[Tensor]:
    """Normal numbers in the declared shapes; an open batch is 2, every other open axis 64."""
    generator = torch.Generator().manual_seed(0)
    declared = {entry.name: entry.type.tensor_type.shape.dim for entry in model.graph.input}
    shapes = (
        [size.dim_value or (64 if axis else 2) for axis, size in enumerate(declared[name])]
        for name in _input_names(model)
    )
    return [torch.randn(shape, generator=generator) for shape in shapes]


def _input_names(model: onnx.ModelProto) -> list[str]:
    held = {initializer.name for initializer in model.graph.initializer}
    return [entry.name for entry in model.graph.input if entry.name not in held]


def _error(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
    difference = np.abs(ours.astype(np.float64) - theirs).max(initial=0)
    error = difference / max(np.abs(theirs).max(initial=0), np.finfo(np.float32).tiny)
    return float(np.nan_to_num(error, nan=np.inf))  # a NaN would pass for less than any other number
