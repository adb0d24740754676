"""Small models written as text, and ONNX Runtime to run them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
from onnx import numpy_helper, parser

from passes.base import run_passes
from passes.canonicalize import CANONICAL


def model_of(text: str, opset: int = 17, ir: int = 8, **initializers: np.ndarray) -> onnx.ModelProto:
    """A valid model with the shapes of its tensors written in."""
    model = parser.parse_model(f'<ir_version: {ir}, opset_import: ["" : {opset}]>\n{text}')
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in initializers.items())
    onnx.checker.check_model(model)
    return onnx.shape_inference.infer_shapes(model)


def canonical(model: onnx.ModelProto) -> gs.Graph:
    """The graph as all passes expect it; nodes are called Op_output."""
    graph = gs.import_onnx(model)
    run_passes(graph, CANONICAL)
    return graph


def session(model: onnx.ModelProto, optimized: Path | None = None) -> onnxruntime.InferenceSession:
    """The model as it is; with ``optimized`` after the runtime's fusions, and that graph in this file."""
    levels, options = onnxruntime.GraphOptimizationLevel, onnxruntime.SessionOptions()
    options.graph_optimization_level = levels.ORT_ENABLE_EXTENDED if optimized else levels.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if optimized:
        options.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(model: onnx.ModelProto, *inputs: np.ndarray) -> list[np.ndarray]:
    """All outputs for the inputs in order, computed node by node as the model is written."""
    runner = session(model)
    return runner.run(None, dict(zip([entry.name for entry in runner.get_inputs()], inputs, strict=True)))


def kernels(model: onnx.ModelProto, folder: Path) -> Counter[str]:
    """How many of each operator are in what ONNX Runtime makes of the model."""
    session(model, folder / "optimized.onnx")
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


def interface(model: onnx.ModelProto) -> list[tuple[str, list[Any]]]:
    """Names, order and dimensions of inputs and outputs."""
    return [
        (entry.name, [size.dim_param or size.dim_value for size in entry.type.tensor_type.shape.dim])
        for entry in [*model.graph.input, *model.graph.output]
    ]


def decibels(expected: np.ndarray, computed: np.ndarray) -> float:
    """How far the signal stands above the error; endless where there is none."""
    error = float(((expected - computed) ** 2).sum())
    return 10 * float(np.log10((expected**2).sum() / error)) if error else np.inf
