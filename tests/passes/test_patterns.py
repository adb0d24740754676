"""What becomes of the patterns that networks are made of: the plan for each target, and what runtimes make of it.

The plans are in patterns.txt, written by `python tools/pattern_table.py --golden`: read what changes there.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import numpy_helper

from passes.canonicalize import PARAMETERS
from passes.lint import lint
from passes.targets import QNN, TARGETS
from tests.passes.conftest import decibels, run
from tests.passes.patterns import CPU, HELD_OUT, PATTERNS, decided, feeds_of, golden, kernels, made, model_of, outputs

EVERY = pytest.mark.parametrize("name", PATTERNS)
TARGET = pytest.mark.parametrize("target", TARGETS)
LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class Written:
    """A quantized model, and who writes and reads its tensors."""

    def __init__(self, name, target):
        graph = made(name, target).quantized.graph
        self.nodes = [node for node in graph.node if not node.op_type.endswith("antizeLinear")]
        self.quantizers = [node for node in graph.node if node.op_type.endswith("antizeLinear")]
        self.values = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
        self.writer = {tensor: node for node in graph.node for tensor in node.output}
        self.outputs = {each.name for each in graph.output}
        self.readers = {}
        for node in graph.node:
            for tensor in node.input:
                self.readers.setdefault(tensor, []).append(node)

    def dequantized(self, tensor):
        """The DequantizeLinear that writes a tensor, if one does."""
        node = self.writer.get(tensor)
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def after(self, node):
        """Operators that read what a node writes."""
        return [reader.op_type for reader in self.readers.get(node.output[0], [])]


# -- plans


def test_plans_are_the_golden_ones():
    blocks = [golden(name) for name in PATTERNS]
    expected = (Path(__file__).parent / "patterns.txt").read_text(encoding="utf-8")
    for block in blocks:
        assert block in expected
    assert expected == "\n".join(blocks) + "\n"


@EVERY
def test_all_cpu_providers_share_a_plan_and_kernels(name):
    first, *others = [(decided(made(name, target)).replace(target, ""), kernels(name, target)) for target in CPU]
    assert others == [first, first]


@TARGET
@EVERY
def test_the_quantized_pattern_is_close_to_the_float_one(name, target):
    plain = 30 if TARGETS[target].weight_bits == 8 else 29
    least = {"attention": 20, "constant-operands": 28}.get(name, plain)  # two products of activations, and of constants
    feeds = feeds_of(name, HELD_OUT)
    expected, each = outputs(model_of(name), feeds), made(name, target).quantized
    for tensor, computed in zip(expected, run(each, *feeds.values()), strict=True):
        assert decibels(expected[tensor], computed) > least
    if target in CPU:
        fused = outputs(each, feeds, signed=target == "ort-arm")
        assert all(decibels(expected[tensor], fused[tensor]) > least for tensor in expected)


@TARGET
@EVERY
def test_the_linter_finds_nothing_to_mend(name, target):
    found = [each for each in lint(made(name, target).quantized, TARGETS[target]) if each.severity != "note"]
    # a factor for each channel keeps its precision: the Mul is left in float between integers
    kept = [("fusion-broken", "Mul_c")] if name == "constant-operands" and target in CPU else []
    assert [(each.rule, each.node) for each in found] == kept


# -- ONNX Runtime: layers and what is between them are integer kernels

IN_FLOAT = {  # operators without an integer kernel, or that hand a float to the outside
    "conv-hard-swish": {"HardSigmoid", "Mul"}, "conv-hard-swish-in-parts": {"HardSigmoid"},
    "conv-hard-swish-by-clip": {"Div"}, "concat-far-apart": {"Sigmoid", "Mul", "Reshape", "Concat"},
    "squeeze-excite-hard": {"HardSigmoid"}, "conv-transpose": {"ConvTranspose"}, "matmul-of-rows": {"Add"},
    "matmul-of-weights": {"MatMul", "Relu"}, "resize-linear": {"Resize"}, "pad": {"Pad"},
    "layer-norm": {"LayerNormalization", "Add"}, "gelu": {"Add", "Gelu"}, "softmax": {"Softmax"},
    "attention": {"FusedMatMul", "Softmax", "MatMul"}, "constant-operands": {"Mul"},
}  # fmt: skip
INTEGER = {
    "QuantizeLinear", "DequantizeLinear", "QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat", "QLinearAdd",
    "QLinearMul", "QLinearConcat", "QLinearSigmoid", "QLinearLeakyRelu", "QLinearAveragePool",
    "QLinearGlobalAveragePool",
    "MaxPool", "Reshape", "Flatten", "Transpose", "Slice", "Split", "Resize", "DepthToSpace",  # which move codes
}  # fmt: skip


@EVERY
def test_onnx_runtime_computes_in_integers_but_for_operators_that_are_named(name):
    found = kernels(name, "ort-cpu")
    assert found.keys() - INTEGER <= IN_FLOAT.get(name, set())
    model = model_of(name).graph
    if name not in IN_FLOAT:  # Q and DQ are left at the two ends only
        assert found["QuantizeLinear"] == len(model.input)
        assert found["DequantizeLinear"] <= len(model.output)
    layers = [node for node in model.node if node.op_type in LAYERS]
    integer = sum(found[op] for op in ("QLinearConv", "QGemm", "QLinearMatMul", "MatMulIntegerToFloat"))
    assert integer == len(layers) - sum(found[op] for op in (*LAYERS, "FusedMatMul"))


# -- TensorRT: symmetric, no int32, nothing between a layer and its end


@EVERY
def test_tensorrt_reads_symmetric_int8_with_its_axis_written(name):
    each = Written(name, "tensorrt")
    for node in each.quantizers:
        scale, zero = (each.values[tensor] for tensor in node.input[1:])
        assert zero.dtype == np.int8
        assert not zero.any()
        assert (scale > 0).all()
        assert [attribute.name for attribute in node.attribute] == (["axis"] if scale.ndim else [])
    for node in each.nodes:
        assert all(each.dequantized(tensor) is None for tensor in node.input[2:])  # biases


@EVERY
def test_on_tensorrt_nothing_stands_between_a_layer_and_its_end(name):
    each = Written(name, "tensorrt")
    ends = {"Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSigmoid", "HardSwish", "Mul"}
    for node in each.nodes:
        if node.op_type in LAYERS:
            read_by = {reader.op_type for reader in model_readers(name, node)}
            assert not (read_by & ends and "QuantizeLinear" in each.after(node))
        if node.op_type == "Add":
            assert sum(each.dequantized(tensor) is not None for tensor in node.input) <= 1


def model_readers(name, node):
    """Who reads, in the float model, what a node writes."""
    return [each for each in model_of(name).graph.node if node.output[0] in each.input]


# -- the others


@EVERY
def test_weights_alone_on_cuda(name):
    each = Written(name, "ort-cuda")
    assert {node.op_type for node in each.quantizers} <= {"DequantizeLinear"}
    assert all(node.input[0] in each.values for node in each.quantizers)


@EVERY
def test_openvino_quantizes_one_side_of_an_add_and_all_of_a_concat_alike(name):
    each = Written(name, "openvino")
    for node in each.nodes:
        read = [each.dequantized(tensor) for tensor in node.input]
        if node.op_type == "Add":
            assert sum(dequantizer is not None for dequantizer in read) <= 1
        if node.op_type == "Concat" and None not in read and each.after(node) == ["QuantizeLinear"]:
            scales = {each.values[dequantizer.input[1]].item() for dequantizer in read}
            assert scales == {each.values[each.readers[node.output[0]][0].input[1]].item()}


@EVERY
def test_on_qnn_whole_nodes_are_in_integers(name):
    """Inputs, outputs and biases; but for a Concat whose output has no scale, and what hangs on it."""
    each = Written(name, "qnn")
    kept = {skip.node for skip in made(name, "qnn").placed.skips}
    for node in each.nodes:
        if node.op_type not in QNN.rules or node.name in kept:
            continue
        data = [tensor for tensor in node.input if tensor in each.writer or tensor in each.values]
        floats = [tensor for tensor in data if each.values.get(tensor, np.zeros(1, np.float32)).dtype == np.float32]
        structure = {tensor for tensor in node.input[1:] if node.op_type == "Resize"}
        assert all(each.dequantized(tensor) is not None for tensor in floats if tensor not in structure)
        assert set(each.after(node)) <= {"QuantizeLinear", "Relu", "Clip"}
        if node.op_type in PARAMETERS and len(node.input) == 3:
            assert each.values[each.dequantized(node.input[2]).input[0]].dtype == np.int32
