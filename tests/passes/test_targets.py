"""The tables of the targets are sound, and ONNX Runtime really fuses what its table claims."""

from __future__ import annotations

from collections import Counter
from dataclasses import FrozenInstanceError
from typing import get_args

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
from onnx import numpy_helper, parser

from passes.base import run_passes
from passes.canonicalize import CANONICAL
from passes.freeze_weights import FreezeWeights
from passes.insert_qdq import InsertQDQ
from passes.placement import WEIGHTED, place
from passes.plan import INTEGER_LIMITS, decide
from passes.targets import ORT_CPU, TARGETS, TENSORRT, Kind

RNG = np.random.default_rng(8)
EVERY = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)


def test_targets_are_found_under_their_names():
    assert {name: target.name for name, target in TARGETS.items()} == {"tensorrt": "tensorrt", "ort-cpu": "ort-cpu"}
    assert (TARGETS["tensorrt"], TARGETS["ort-cpu"]) == (TENSORRT, ORT_CPU)


@EVERY
def test_every_rule_is_about_an_operator_that_onnx_knows(target):
    for op in [*target.rules, *target.absorbs, *target.output_required, *target.per_tensor_weights]:
        assert onnx.defs.has(op), op


@EVERY
def test_every_rule_has_a_kind_and_no_exception_is_about_an_operator_without_a_rule(target):
    assert set(target.rules.values()) <= set(get_args(Kind))
    weighted = {op for op, kind in target.rules.items() if kind == "weighted"}
    assert weighted <= set(WEIGHTED)  # the placement knows where the weights of these are
    assert target.output_required | target.per_tensor_weights | target.int32_bias_written <= weighted
    assert not target.absorbs & set(target.rules)


@EVERY
def test_activations_have_a_type_with_limits_and_symmetric_ones_are_signed(target):
    low, _ = INTEGER_LIMITS[target.activation]
    assert (low < 0) is target.symmetric
    assert target.runtime


def test_a_target_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        ORT_CPU.symmetric = True
    with pytest.raises(TypeError):
        ORT_CPU.rules["Softmax"] = "unary"
    with pytest.raises(TypeError):
        TARGETS["other"] = ORT_CPU


def optimized(text, path, **initializers):
    """How often each operator is in what ONNX Runtime makes of the quantized model."""
    model = parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\n{text}')
    for name, value in initializers.items():
        array = RNG.standard_normal(value).astype(np.float32) if isinstance(value, tuple) else value
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    graph = gs.import_onnx(onnx.shape_inference.infer_shapes(model))
    run_passes(graph, CANONICAL)
    plan = decide(graph, dict.fromkeys(place(graph, ORT_CPU).tensors, (-4.0, 4.0)), ORT_CPU)
    run_passes(graph, [InsertQDQ(plan), FreezeWeights()])
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path / "optimized.onnx")
    options.log_severity_level = 3
    content = gs.export_onnx(graph).SerializeToString()
    onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(path / "optimized.onnx").graph.node)


KERNELS = {  # operator -> how it stands between two convolutions, and the integer kernel it should become
    "Add": ("b = Conv (x, v) c = Add (a, b)", "QLinearAdd"),
    "Mul": ("b = Conv (x, v) c = Mul (a, b)", "QLinearMul"),
    "Concat": ("b = Conv (x, v) c = Concat <axis = 2> (a, b)", "QLinearConcat"),
    "GlobalAveragePool": ("c = GlobalAveragePool (a)", "QLinearGlobalAveragePool"),
    "AveragePool": ("c = AveragePool <kernel_shape = [2,2]> (a)", "QLinearAveragePool"),
    "Sigmoid": ("c = Sigmoid (a)", "QLinearSigmoid"),
    "LeakyRelu": ("c = LeakyRelu <alpha = 0.1> (a)", "QLinearLeakyRelu"),
    "MaxPool": ("c = MaxPool <kernel_shape = [2,2]> (a)", "MaxPool"),
    "Reshape": ("c = Reshape (a, shape)", "Reshape"),
    "Flatten": ("b = Flatten (a) c = Reshape (b, shape)", "Flatten"),
    "Transpose": ("c = Transpose <perm = [0,1,3,2]> (a)", "Transpose"),
    "Squeeze": ("b = Unsqueeze (a, last) c = Squeeze (b, last)", "Squeeze"),
    "Unsqueeze": ("b = Unsqueeze (a, last) c = Squeeze (b, last)", "Unsqueeze"),
    "Slice": ("c = Slice (a, one, three, last)", "Slice"),
    "Gather": ("c = Gather <axis = 3> (a, one)", "Gather"),
    "Split": ("b, d = Split <axis = 1> (a, halves) c = Concat <axis = 1> (d, b)", "Split"),
}


def test_every_operator_of_the_table_is_tried_below():
    assert {*KERNELS, "Conv", "Gemm", "MatMul"} == set(ORT_CPU.rules)


@pytest.mark.parametrize("op", KERNELS)
def test_onnx_runtime_runs_it_in_integers(op, tmp_path):
    between, kernel = KERNELS[op]
    found = optimized(
        f"g (float[1,16,6,6] x) => (float[A,B,C,D] y) {{ a = Conv (x, u) {between} y = Conv (c, w) }}",
        tmp_path, u=(16, 16, 1, 1), v=(16, 16, 1, 1), w=(16, 16, 1, 1), shape=np.array([1, 16, 6, 6]),
        last=np.array([3]), one=np.array([1]), three=np.array([3]), halves=np.array([8, 8]),
    )  # fmt: skip
    assert found[kernel] >= 1
    assert (found["QuantizeLinear"], found["DequantizeLinear"]) == (1, 1)  # at the two ends, nowhere in between
    assert not {"Conv", "Sigmoid", "LeakyRelu", "AveragePool", "GlobalAveragePool", "Add", "Mul"} & set(found)


def test_matrix_products_run_in_integers(tmp_path):
    found = optimized(
        "g (float[4,16] x) => (float[4,16] y, float[4,16] z) { a = Gemm (x, u, b) y = Gemm (a, v) z = MatMul (a, v) }",
        tmp_path, u=(16, 16), v=(16, 16), b=(16,),
    )  # fmt: skip
    assert found["QGemm"] == 2
    assert found["MatMulIntegerToFloat"] + found["QLinearMatMul"] == 1
    assert not {"Gemm", "MatMul"} & set(found)
