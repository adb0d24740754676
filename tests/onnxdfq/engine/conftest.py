"""One node against ONNX Runtime, in every way that its inputs can reach it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from onnxdfq.engine.lower import lower

Array = np.ndarray


def one_node(
    op: str,
    inputs: Sequence[Array | None],
    opset: int,
    outputs: int,
    constant: bool,
    attributes: dict[str, Any],
) -> onnx.ModelProto:
    """A model of a single node; with ``constant`` all its inputs but the first are initializers."""
    names = [f"in{i}" if array is not None else "" for i, array in enumerate(inputs)]
    given = [(name, array) for name, array in zip(names, inputs, strict=True) if array is not None]
    fixed = given[1:] if constant else []
    graph = helper.make_graph(
        [helper.make_node(op, names, [f"out{i}" for i in range(outputs)], name="node", **attributes)],
        "graph",
        [
            helper.make_tensor_value_info(
                name,
                helper.np_dtype_to_tensor_dtype(array.dtype),
                [None] * array.ndim if name == "in0" else array.shape,
            )
            for name, array in given[: 1 if constant else None]
        ],
        [helper.make_empty_tensor_value_info(f"out{i}") for i in range(outputs)],
        [numpy_helper.from_array(array, name) for name, array in fixed],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


def run_onnxruntime(model: onnx.ModelProto, feed: dict[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feed)


def compare(model: onnx.ModelProto, inputs: Sequence[Array], tolerance: float = 2e-5, **options: Any) -> None:
    """Lower the model and compare all outputs with ONNX Runtime: types, shapes and values."""
    names = [entry.name for entry in model.graph.input]
    expected = run_onnxruntime(model, dict(zip(names, inputs, strict=True)))
    actual = lower(model, **options)(*map(torch.from_numpy, inputs))
    assert isinstance(actual, tuple)
    assert len(actual) == len(expected)
    for ours, theirs in zip(actual, expected, strict=True):
        ours = ours.detach().numpy()
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.fixture
def onnxruntime_run() -> Callable[..., list[Array]]:
    return run_onnxruntime


@pytest.fixture
def agrees() -> Callable[..., None]:
    """Compare a model with ONNX Runtime: ``agrees(model, inputs)``."""
    return compare


@pytest.fixture
def node_agrees() -> Callable[..., None]:
    """Compare one node with ONNX Runtime: inputs as tensors, as constants, and with static shapes."""

    def check(
        op: str,
        *inputs: Array | None,
        opset: int,
        outputs: int = 1,
        tolerance: float = 2e-5,
        **attributes: Any,
    ) -> None:
        given = [array for array in inputs if array is not None]
        compare(one_node(op, inputs, opset, outputs, False, attributes), given, tolerance)
        fixed = one_node(op, inputs, opset, outputs, True, attributes)
        compare(fixed, given[:1], tolerance)
        compare(fixed, given[:1], tolerance, input_shapes={"in0": given[0].shape})

    return check
